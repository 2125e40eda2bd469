"""`openm3 new`: a checkpoint with random weights, in the published layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from openm3.cli.inspect import describe, memory_lines
from openm3.cli.progress import Progress, format_amount
from openm3.config import EngineConfig, ModelConfig
from openm3.config.presets import PRESETS, preset
from openm3.errors import InputError

_LARGE = ("m3", "m3.1")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--preset", "name", type=click.Choice(PRESETS), required=True, help="Which sizes.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same weights.")
@click.option("--really", is_flag=True, help="Write m3 and m3.1 too: 854 GB each. Without it their sizes are printed.")
def new(path: Path, name: str, seed: int, really: bool) -> None:
    """Write a randomly initialised M3 checkpoint to PATH, for tests and training.

    Configuration, weights, and a tokenizer of bytes and M3's special tokens: a folder that every command opens.

    \b
    Examples:
      openm3 new --preset tiny ./tiny && openm3 ask -m ./tiny -c README.md --fit "What is this?"
      openm3 new --preset m3 ./m3
    """
    import torch

    from openm3.model.create import write_checkpoint
    from openm3.model.plan import parameter_shapes, plan_memory
    from openm3.text.byte_level import write_byte_tokenizer

    raw = preset(name)
    config = ModelConfig.from_hf(raw)
    shapes = parameter_shapes(config)
    size = 2 * sum(shape.numel() for shape in shapes.values())
    click.echo(
        f"{name}: {describe(config)}; {size // 2:,} parameters, {format_amount(size, 'bytes')} in bf16", err=True
    )
    if name in _LARGE and not really:
        engine, context = EngineConfig().for_model(config), config.max_position_embeddings
        page_size = engine.blocks.index_block_size
        plan = plan_memory(
            config,
            shapes,
            context=context,
            page_size=page_size,
            dtype=torch.bfloat16,
            batch_tokens=engine.max_batch_tokens,
        )
        click.echo("\n".join(memory_lines(plan, context)))
        click.echo("nothing written; --really writes it", err=True)
        return
    parent = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if size > (free := shutil.disk_usage(parent).free):
        raise InputError(
            "path", f"{parent} has {format_amount(free, 'bytes')} free, {format_amount(size, 'bytes')} needed"
        )
    with Progress(f"writing {path}", "bytes") as progress:
        write_checkpoint(path, raw, seed=seed, on_progress=progress.update)
    write_byte_tokenizer(path, config.vocab_size)
    click.echo(path)
