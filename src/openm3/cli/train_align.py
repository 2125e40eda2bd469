"""`openm3 train align`: an index branch for a dense model."""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openm3 import __version__, hub
from openm3.cli.answer import INTERRUPTED, ctrl_c
from openm3.cli.ask import tell_skipped
from openm3.cli.options import named_options, numbers
from openm3.cli.progress import Progress, format_amount, format_duration
from openm3.config import SparseConfig
from openm3.errors import InputError

if TYPE_CHECKING:
    from openm3.train.align import AlignConfig, Aligner
    from openm3.train.session import Row, Session

_LAST = 20  # steps that the figures of the sidecar are the mean of

# Values are None until somebody gives them: defaults are those of `AlignConfig`, and shown here.
_LEARNING: tuple[Callable[[Any], Any], ...] = (
    click.option("--steps", "num_steps", type=int, show_default="300", help="Optimiser steps."),
    click.option("--tokens", type=int, metavar="N", help="Tokens to learn from, in place of --steps."),
    click.option("--window", type=int, show_default="8192", metavar="TOKENS",
                 help="Of a window; as long as the branch is to be good at."),
    click.option("--rows", type=int, show_default="512", help="Query tokens of a window that are learnt from."),
    click.option("--lr", type=float, show_default="0.01",
                 help="Largest learning rate of AdamW; it rises, then falls by a cosine to a twentieth."),
    click.option("--warmup-steps", type=int, show_default="10", help="Steps over which the learning rate rises."),
    click.option("--sparse-steps", type=int, show_default="0",
                 help="The last steps, in which the loss is over the chosen blocks; before, it is over all."),
    click.option("--target", type=click.Choice(["max", "mean"]), show_default="max",
                 help="What a block is worth: the most that a head of the group reads of it, or the mean."),
    click.option("--blocks", "index_topk_blocks", type=int, show_default="16", metavar="N",
                 help="Blocks that a query reads."),
    click.option("--block-size", "index_block_size", type=int, show_default="128", metavar="TOKENS"),
    click.option("--index-heads", "index_n_heads", type=int, show_default="one for each key/value head",
                 help="Index query heads."),
    click.option("--index-key-heads", "index_n_key_heads", type=int, show_default="1", help="Index key heads."),
    click.option("--index-head-size", "index_head_dim", type=int, show_default="the model's", metavar="N"),
    click.option("--index-rotary-size", "index_rotary_dim", type=int, show_default="a quarter", metavar="N",
                 help="Elements of an index head that are rotated by position."),
    click.option("--index-norm/--no-index-norm", "use_index_norm", default=None, show_default="no",
                 help="Norm index queries and keys, as M3 does."),
    click.option("--own-key-layers", metavar="N,N", help="Layers that choose by the model's own keys."),
    click.option("--dense-layers", metavar="N,N", help="Layers that go on reading everything."),
    click.option("--seed", type=int, show_default="0", help="Of the order of the data, and of what is drawn."),
    click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), show_default="bfloat16",
                 help="Of the model; the branch learns in float32."),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU where there is one."),
)  # fmt: skip


def _learning_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_LEARNING):
        command = option(command)
    return command


@click.command()
@click.argument("model", default="default")
@click.option(
    "-d",
    "--data",
    multiple=True,
    required=True,
    metavar="PATH",
    help="Text to learn from: a file, folder or glob of text, code, JSON lines, Parquet, or a folder that "
    "`datasets` saved; may be given again.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of the run: branch, metrics, plots and checkpoints.",
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --out, if there is one.")
@click.option(
    "--held-out",
    type=float,
    default=0.05,
    show_default=True,
    metavar="SHARE",
    help="Of the data, by document, for `openm3 train report`; never learnt from.",
)
@click.option("--text-key", default="text", show_default=True, help="Where JSON lines and tables have their text.")
@click.option("--accumulate", type=int, default=1, show_default=True, metavar="N", help="Windows of a step.")
@click.option("--save-every", type=int, default=20, show_default=True, metavar="STEPS", help="Between checkpoints.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to compute with. Default: one a core.")
@_learning_options
@named_options()
def align(
    model: str,
    data: tuple[str, ...],
    out: Path,
    resume: bool,
    held_out: float,
    text_key: str,
    accumulate: int,
    save_every: int,
    threads: int | None,
    tokens: int | None,
    **learning: Any,
) -> None:
    """Teach a dense model an index branch, which chooses the blocks that attention reads. The model stays as it is.

    Ctrl-C saves and says how to go on; a run that was killed goes on from its newest checkpoint with --resume, and has
    the same figures as one that nobody stopped.

    \b
    Examples:
      openm3 train align --data ./src --data books.jsonl --out ./branch
      openm3 ask --index-branch ./branch --context ./src "Where are pages freed?"
    """  # fmt: skip
    with Progress(f"pulling {model}", "bytes") as pulling:
        path = hub.pull(model, on_progress=pulling.update)
    from openm3.train.corpus import Corpus

    corpus = Corpus.read(data, text_key=text_key)
    tell_skipped(corpus.skipped)
    train, kept = corpus.split(held_out)
    click.echo(
        f"{len(train):,} documents, {format_amount(train.num_bytes, 'bytes')}"
        + (f", and {len(kept):,} held out" if held_out else "")
        + (f"; {corpus.num_repeated:,} are there twice" if corpus.num_repeated else ""),
        err=True,
    )
    config = _config(learning, tokens, accumulate)
    import torch

    from openm3.train.align import Aligner
    from openm3.train.data import Windows, document_end
    from openm3.train.session import Session, SessionConfig

    if threads is not None:
        torch.set_num_threads(threads)
    aligner = Aligner(path, config)
    end = document_end(aligner.llm.tokenizer)
    windows = Windows(train, aligner.llm.encode, config.window, end_id=end, seed=config.seed)
    session = Session(
        aligner,
        windows,
        SessionConfig(num_steps=config.num_steps, accumulate=accumulate, save_every=save_every),
        out,
        identity={
            "model": aligner.llm.identity,
            "data": corpus.digest,
            "held_out": held_out,
            "accumulate": accumulate,
            **_flat(asdict(config)),
        },
        resume=resume,
    )
    _run(session)
    made = {
        "model": aligner.llm.name,
        "data": {
            "paths": list(data),
            "documents": len(corpus),
            "bytes": corpus.num_bytes,
            "digest": corpus.digest,
            "held_out": held_out,
            "held_out_digest": kept.digest,
        },
        "accumulate": accumulate,
        "command": shlex.join(["openm3", *sys.argv[1:]]),
        "openm3": __version__,
        "torch": torch.__version__,
    }
    _finish(aligner, session, out, made)


def _run(session: Session) -> None:
    """Does the steps that are left; ends the program when somebody stops them."""
    total = session.config.num_steps
    stopping = "\nstopping after this step; Ctrl-C again stops at once, and loses the steps since the last checkpoint"
    with ctrl_c(stopping) as interrupted, Progress("aligning", "steps", total) as progress:
        progress.update(session.step)

        def show(row: Row) -> None:
            progress.update(session.step, note=f"KL {row['kl']:.3f}, recall {row['recall']:.3f}")

        session.run(on_step=show, should_stop=interrupted.is_set)
    if not session.is_done:
        again = [*sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])]
        click.echo(f"stopped after step {session.step} of {total}; go on with: openm3 {shlex.join(again)}", err=True)
        raise SystemExit(INTERRUPTED)


def _finish(aligner: Aligner, session: Session, out: Path, made: Mapping[str, Any]) -> None:
    """Writes the branch and the plots, and says what to do with them."""
    from openm3.train import pictures

    rows = session.rows()
    first, last = rows[0], {name: statistics.fmean(row[name] for row in rows[-_LAST:]) for name in ("kl", "recall")}
    cost = {"tokens": rows[-1]["tokens"], "seconds": round(session.seconds)}
    aligner.write(out, {**made, **cost, "figures": {name: round(value, 4) for name, value in last.items()}})
    if not pictures.draw(_plots(rows), out / "training.png"):
        click.echo(pictures.MISSING, err=True)
    click.echo(
        f"KL {first['kl']:.3f} to {last['kl']:.3f}, recall {first['recall']:.3f} to {last['recall']:.3f}, in "
        f"{len(rows):,} steps, {cost['tokens']:,} tokens, {format_duration(session.seconds)}; measure it with: "
        f"openm3 train report MODEL --index-branch {shlex.quote(str(out))} --data PATH --out DIR",
        err=True,
    )
    click.echo(out)


def _config(learning: Mapping[str, Any], tokens: int | None, accumulate: int) -> AlignConfig:
    """What the options say; the rest is `AlignConfig`'s."""
    from openm3.train.align import AlignConfig

    given = {name: value for name, value in learning.items() if value is not None}
    for name in ("own_key_layers", "dense_layers"):
        if name in given:
            given[name] = numbers(name, given[name])
    sparse = {name: given.pop(name) for name in ("index_topk_blocks", "index_block_size") if name in given}
    config = AlignConfig(**given, sparse=SparseConfig(**sparse))
    if tokens is None:
        return config
    if "num_steps" in given:
        raise InputError("tokens", "is given beside --steps; leave one of them out")
    a_step = config.window * max(1, accumulate)
    if tokens < a_step:
        raise InputError("tokens", f"must be at least the {a_step:,} of one step, got {tokens:,}")
    return AlignConfig(**given, sparse=SparseConfig(**sparse), num_steps=tokens // a_step)


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """One level of names, those of the blocks among the others; without what changes no figure."""
    return {name: value for name, value in {**options, **options["sparse"]}.items() if name != "sparse"}


def _plots(rows: Sequence[Row]) -> list[Any]:
    from openm3.train.pictures import Line, Plot

    steps = [float(row["step"]) for row in rows]
    plots = [
        Plot(title, "step", title, [Line(title, steps, [row[name] for row in rows])])
        for name, title in (("kl", "KL"), ("recall", "recall"))
    ]
    layers = [float(i) for i in range(len(rows[0]["kl_by_layer"]))]
    for name, title in (("kl_by_layer", "KL"), ("recall_by_layer", "recall")):
        ends = {"first step": rows[:1], f"last {len(rows[-_LAST:])} steps": rows[-_LAST:]}
        lines = [
            Line(when, layers, [statistics.fmean(values) for values in zip(*(row[name] for row in some), strict=True)])
            for when, some in ends.items()
        ]
        plots.append(Plot(f"{title} by layer", "layer that learns", title, lines))
    return plots
