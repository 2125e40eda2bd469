"""`openm3 train`: teach a model to read sparsely, and measure how well it does."""

from __future__ import annotations

import click

from openm3.cli.train_report import report


@click.group()
def train() -> None:
    """Teach a model to read sparsely, and measure how well it does."""


train.add_command(report)
