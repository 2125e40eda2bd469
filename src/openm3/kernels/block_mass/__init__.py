"""How much of the softmax each block gets."""

from openm3.kernels.block_mass.op import block_mass
from openm3.kernels.block_mass.rows import WatchedRows

__all__ = ["WatchedRows", "block_mass"]
