"""`openm3 train run`: language-model training with sparse attention."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from openm3.cli.answer import INTERRUPTED
from openm3.cli.progress import Progress, format_amount

if TYPE_CHECKING:
    from openm3.train.language_run import LanguageRun
    from openm3.train.session import Row
    from openm3.train.sharding import Group


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in that folder.")
def run(config: Path, out: Path, resume: bool) -> None:
    """Train a language model, M3 or of the Llama family, as the TOML file CONFIG says.

    From scratch or from a checkpoint, dense or with sparse attention, whose index branch is taught beside it. OUT gets
    metrics.jsonl, checkpoints/ and, when the run has ended or Ctrl-C has stopped it, training.png (where matplotlib is
    installed) and model/, which every command opens.

    \b
    Examples:
      openm3 train run examples/train_tiny.toml --out ./run && openm3 generate -m ./run/model "def "
      torchrun --nproc-per-node 2 -m openm3 train run config.toml --out ./run
    """
    from openm3.train.language_run import LanguageRun
    from openm3.train.run_config import RunConfig
    from openm3.train.sharding import joined

    chosen = RunConfig.read(config)
    with joined(chosen.training.device) as group:
        it = LanguageRun(chosen, out, group, resume=resume)
        with _stops() as stopped:
            _go(it, group, stopped)
        it.draw()
        path = it.write_model()
        is_done = it.session.is_done
    if group.rank == 0:
        click.echo(path)
    code = 0 if is_done else INTERRUPTED
    if group.size > 1:
        # Some of gloo's threads are still there, and C++ aborts the process when it ends before them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)


def _go(it: LanguageRun, group: Group, stopped: list[int]) -> None:
    """Does the steps, with a bar in the first process."""
    training, window = it.config.training, it.config.data.window
    per_step = training.windows_per_step * window
    if group.rank == 0:
        amounts = [f"{len(c):,} documents, {format_amount(c.num_bytes, 'bytes')}" for c in (it.corpus, it.held_out)]
        click.echo(f"data: {amounts[0]}; held out: {amounts[1]}", err=True)
        if it.session.step:
            click.echo(f"going on from step {it.session.step} of {training.steps}", err=True)
    with Progress("training", "tokens", training.steps * per_step) as progress:

        def on_step(row: Row) -> None:
            if group.rank:
                return
            progress.update(row["tokens"])
            if "held_out_dense" in row or row["step"] in (1, training.steps):
                click.echo(_line(row), err=True)

        if group.rank == 0:
            progress.update(it.session.step * per_step)
        it.session.run(on_step=on_step, should_stop=lambda: group.any(bool(stopped)))


def _line(row: Row) -> str:
    shown = {
        "nll": "training NLL",
        "kl": "KL",
        "held_out_dense": "held-out NLL dense",
        "held_out_sparse": "sparse",
    }
    return f"step {row['step']}: " + ", ".join(
        f"{label} {row[name]:.4f}" for name, label in shown.items() if name in row
    )


@contextmanager
def _stops() -> Iterator[list[int]]:
    """A list that holds the signal by which somebody asked for the end; a second Ctrl-C ends at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        click.echo("stopping after this step; once more to stop at once", err=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
