"""`openm3 doctor`: what runs on this machine, and why not more."""

from __future__ import annotations

import platform

import click

from openm3 import __version__, hub


@click.command()
def doctor() -> None:
    """Say which kernels, instruction set and threads are in use, and where models are kept.

    \b
    Example:
      openm3 doctor
    """
    import torch

    from openm3.kernels import backend
    from openm3.kernels.linear import PackedLinear

    linear = PackedLinear(torch.zeros(16, 16, dtype=torch.bfloat16))
    kernels = backend.BACKENDS[0]
    if kernels == "native":
        kernels += f" ({backend.native().isa()})"
    lines = {
        "openm3": f"{__version__}, Python {platform.python_version()}, torch {torch.__version__}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "kernels": kernels,
        "linear layers": f"bf16 weights in {linear.layout} layout",
        "models": str(hub.home()),
    }
    for name, value in lines.items():
        click.echo(f"{name:14} {value}")
    if reason := backend.why_not_native():
        click.echo(f"no native kernels: {reason}; install again with a C++ compiler (GCC or Clang)")
