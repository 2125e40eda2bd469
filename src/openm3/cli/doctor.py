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
    from openm3.kernels.linear.grouped import quantise

    weight = torch.zeros(32, 32, dtype=torch.bfloat16)
    layouts = [PackedLinear(w).layout for w in (weight, quantise(weight))]
    kernels = backend.choose()
    if kernels == "native":
        kernels += f" ({backend.native().isa()})"
    lines = {
        "openm3": f"{__version__}, Python {platform.python_version()}, torch {torch.__version__}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "kernels": kernels,
        "GPU": _gpu(),
        "linear layers": f"bf16 weights in {layouts[0]} layout, a GGUF file's own 8-bit ones in {layouts[1]}",
        "index branch": _packaged_branch(),
        "models": str(hub.home()),
    }
    for name, value in lines.items():
        click.echo(f"{name:14} {value}")
    for name, launch in _launches().items():
        click.echo(f"  {name:12} {launch}")
    if reason := backend.why_not_native():
        click.echo(f"no native kernels: {reason}; install again with a C++ compiler (GCC or Clang)")


def _packaged_branch() -> str:
    """The default model's, which comes with this package."""
    from openm3.model.branch import packaged
    from openm3.model.sidecar import ABOUT, Sidecar

    if not (packaged() / ABOUT).is_file():
        return "none for the default model in this package"
    branch = Sidecar.read(packaged())
    return f"of the default model: {branch.form}; {branch.identity}"


def _gpu() -> str:
    """The GPU, its kernels and where the sizes of their tiles come from."""
    import torch

    from openm3.kernels import backend, gpu_tuning

    if not torch.cuda.is_available():
        return "none that torch sees"
    device = backend.choose_device("cuda")
    name, capability = torch.cuda.get_device_name(device), "{}.{}".format(*torch.cuda.get_device_capability(device))
    if "triton" not in backend.BACKENDS:
        return f"{name}, not used: Triton is not installed"
    return f"{name} (compute capability {capability}), triton kernels, {gpu_tuning.origin(device)}"


def _launches() -> dict[str, str]:
    """How the GPU's kernels would be launched, by kind."""
    import torch

    from openm3.kernels import backend, gpu_tuning

    if not torch.cuda.is_available() or "triton" not in backend.BACKENDS:
        return {}
    launches = gpu_tuning.tuning(backend.choose_device("cuda")).launches
    return {name: str(launch) for name, launch in launches.items()}
