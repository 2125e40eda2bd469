"""`openm3 train`: teach a model to read sparsely, and measure how well it does."""

from __future__ import annotations

import click


@click.group()
def train() -> None:
    """Teach a model to read sparsely, and measure how well it does."""
