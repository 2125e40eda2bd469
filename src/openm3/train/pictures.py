"""Line plots beside each other, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

MISSING = "matplotlib is not installed, so there are no pictures; pip install 'openm3[train]' brings it"


@dataclass(frozen=True)
class Line:
    """What `y` is at `x`."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Plot:
    """Lines over one axis."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]


def can_draw() -> bool:
    """Whether matplotlib is installed, which the extra `train` brings."""
    return find_spec("matplotlib") is not None


def draw(plots: Sequence[Plot], path: Path) -> bool:
    """Writes a PNG; returns whether it could be drawn, see `can_draw`."""
    if not can_draw():
        return False
    from matplotlib.figure import Figure  # without pyplot, which keeps figures and picks a screen

    figure = Figure(figsize=(4.6 * len(plots), 3.6), layout="constrained")
    for axis, plot in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots, strict=True):
        for line in plot.lines:
            axis.plot(line.x, line.y, marker="." if len(line.x) < 50 else "", label=line.name)
        axis.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
        axis.grid(alpha=0.3)
        if len(plot.lines) > 1:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=130)
    return True
