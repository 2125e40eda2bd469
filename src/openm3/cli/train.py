"""`openm3 train`: teach a model to read sparsely, and measure how well it does."""

from __future__ import annotations

import click

from openm3.cli.train_align import align
from openm3.cli.train_report import report
from openm3.cli.train_run import run


@click.group()
def train() -> None:
    """Teach a model to read sparsely, and measure how well it does."""


for command in (align, report, run):
    train.add_command(command)
