"""Chooses the blocks that each query reads."""

from openm3.kernels.select_blocks.op import select_blocks
from openm3.kernels.select_blocks.quantised import QuantisedIndex

__all__ = ["QuantisedIndex", "select_blocks"]
