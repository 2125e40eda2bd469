"""`openm3 train report`: what sparse attention costs and saves, measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from openm3 import hub
from openm3.cli.ask import tell_skipped
from openm3.cli.options import named_options, numbers
from openm3.cli.progress import Progress
from openm3.errors import InputError

if TYPE_CHECKING:
    from openm3.model.sidecar import Sidecar
    from openm3.train.corpus import Corpus

_LONGEST = 8192  # of the lengths that are measured when nobody says which


@click.command()
@click.argument("model", default="default")
@click.option(
    "-d",
    "--data",
    "data",
    multiple=True,
    required=True,
    metavar="PATH",
    help="Text that training did not see: a file or folder as for `train align`; each one is reported apart.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder of the report."
)
@click.option(
    "--index-branch",
    default="auto",
    show_default=True,
    metavar="DIR",
    help="The index branch to measure; auto: the one that `openm3 ask` takes.",
)
@click.option(
    "--held-out",
    type=float,
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Read only what `train align` with this share and the same data held out; 0: read everything.",
)
@click.option(
    "--lengths",
    metavar="N,N",
    help=f"Context lengths in tokens. Default: a quarter, a half and all of the trained window, at most {_LONGEST}.",
)
@click.option("--budgets", default="8,16", show_default=True, metavar="N,N", help="Blocks that a query reads.")
@click.option(
    "--texts", "num_texts", type=int, default=2, show_default=True, help="Texts of the longest length, of each PATH."
)
@click.option(
    "--keys",
    "num_keys",
    type=int,
    default=4,
    show_default=True,
    help="Hidden keys to ask for, at each length and each of five depths; 0 for none.",
)
@click.option("--speed/--no-speed", default=True, show_default=True, help="Take the time, too.")
@click.option("--text-key", default="text", show_default=True, help="Where JSON lines and tables have their text.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Of weights and cache.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU where there is one.")
@named_options()
def report(
    model: str,
    data: tuple[str, ...],
    out: Path,
    index_branch: str,
    held_out: float,
    lengths: str | None,
    budgets: str,
    num_texts: int,
    num_keys: int,
    speed: bool,
    text_key: str,
    dtype: Literal["bfloat16", "float32"],
    device: Literal["cpu", "cuda"] | None,
) -> None:
    """Measure what sparse attention costs and saves: NLL, recall, hidden keys, speed, with dense attention beside it.

    \b
    Examples:
      openm3 train report --data ./held-out --out ./report
      openm3 train report ./model --index-branch ./aligned --data code.jsonl --data prose.jsonl --out ./report
    """  # fmt: skip
    chosen = numbers("budgets", budgets), numbers("lengths", lengths) if lengths else None
    with Progress(f"pulling {model}", "bytes") as pulling:
        path = hub.pull(model, on_progress=pulling.update)
    from openm3.model.weights import open_checkpoint
    from openm3.train import pictures
    from openm3.train.report import Measurement, ReportConfig
    from openm3.train.report_page import write

    longest = min(_LONGEST, open_checkpoint(path).config.max_position_embeddings)
    config = ReportConfig(
        lengths=chosen[1] or (longest // 4, longest // 2, longest),
        budgets=chosen[0],
        num_texts=num_texts,
        num_keys=num_keys,
        speed=speed,
        index_branch=index_branch,
        dtype=dtype,
        device=device,
    )
    corpora, digest = _corpora(data, text_key, held_out)
    measurement = Measurement(path, corpora, config)
    if held_out:
        _check_held_out(measurement.sidecar, digest)
    with Progress("measuring", "tokens", measurement.num_tokens) as progress:
        measured = measurement.run(lambda done, what: progress.update(done, note=what))
    if not pictures.can_draw():
        click.echo(
            "matplotlib is not installed, so there are no pictures; pip install 'openm3[train]' brings it", err=True
        )
    for written in write(measured, out):
        click.echo(written)


def _corpora(paths: tuple[str, ...], text_key: str, held_out: float) -> tuple[dict[str, Corpus], str]:
    """What each path has, or of it what was held out of all of them together; and the digest of that."""
    from openm3.train.corpus import Corpus

    whole = Corpus.read(paths, text_key=text_key)
    tell_skipped(whole.skipped)
    names = [Path(path).name or path for path in paths]
    unique = names if len(set(names)) == len(names) else paths
    parts = {name: Corpus.read([path], text_key=text_key) for name, path in zip(unique, paths, strict=True)}
    if not held_out:
        return parts, whole.digest
    _, rest = whole.split(held_out)
    return {name: part.among(rest) for name, part in parts.items()}, rest.digest


def _check_held_out(sidecar: Sidecar | None, digest: str) -> None:
    """Refuses texts that are not those which the branch's own training held out."""
    made = {} if sidecar is None else sidecar.made.get("data", {})
    if made.get("held_out_digest", digest) != digest:
        raise InputError(
            "held_out",
            f"these are not the texts that training held out, which were {made['held_out']} of "
            f"{', '.join(made['paths'])}; give the same share and data",
        )
