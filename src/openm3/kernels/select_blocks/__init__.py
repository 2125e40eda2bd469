"""Chooses the blocks that each query reads."""

from openm3.kernels.select_blocks.op import select_blocks

__all__ = ["select_blocks"]
