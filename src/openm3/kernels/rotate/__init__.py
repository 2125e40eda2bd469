"""Rotates new queries and keys, and writes keys and values into their pages."""

from openm3.kernels.rotate.op import rotate_and_write

__all__ = ["rotate_and_write"]
