"""`openm3 tune`: measures how the kernels are best launched on this GPU."""

from __future__ import annotations

from pathlib import Path

import click

from openm3.errors import InputError


@click.command()
@click.option(
    "--context",
    type=click.IntRange(min=1 << 18),
    default=524288,
    show_default=True,
    metavar="TOKENS",
    help="Of the layer that is measured; a token takes about 2.4 KB.",
)
@click.option(
    "--kind", "kinds", multiple=True, metavar="NAME", help="Only this kind of launch; may be given again. Default: all."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
              help="Where the table goes. Default: where openm3 finds it on this machine.")  # fmt: skip
def tune(context: int, kinds: tuple[str, ...], out: Path | None) -> None:
    """Measure how the GPU kernels are best launched, and write the table that they are launched by from then on.

    Nothing is ever searched for while a model runs. The table is JSON; openm3 doctor says which one is in use.

    \b
    Examples:
      openm3 tune
      openm3 tune --kind scan_few --kind bound_few --out table.json
    """
    import torch

    from openm3.config import nearest
    from openm3.kernels import gpu_search, gpu_tuning
    from openm3.kernels.backend import choose_device

    for kind in kinds:
        if kind not in gpu_search.CANDIDATES:
            raise InputError("kind", f"unknown kind {kind!r}{nearest(kind, list(gpu_search.CANDIDATES))}")
    device = choose_device("cuda")
    out = out or gpu_tuning.table_path(torch.cuda.get_device_name(device))
    with torch.inference_mode():
        layer = gpu_search.Layer(device, context // 128 * 128, queries=8192)
        table = gpu_search.search(device, layer, kinds or tuple(gpu_search.CANDIDATES), gpu_search.replayed, click.echo)
    gpu_tuning.write(table, out)
    click.echo(f"wrote {out}")
