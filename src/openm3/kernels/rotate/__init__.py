"""Norms and rotates new queries and keys, and writes keys and values into their pages."""

from openm3.kernels.rotate.norms import HeadNorms
from openm3.kernels.rotate.op import rotate_and_write

__all__ = ["HeadNorms", "rotate_and_write"]
