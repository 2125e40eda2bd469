"""Writes new keys and values into their pages."""

from openm3.kernels.write_cache.op import write_cache

__all__ = ["write_cache"]
