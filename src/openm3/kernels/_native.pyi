"""The compiled kernels (native/module.cpp). They take addresses and sizes; the `cpu.py` files call them."""

from typing import Any

def __getattr__(name: str) -> Any: ...
