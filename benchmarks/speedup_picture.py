"""A picture of how many times faster something is, over the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw(contexts: Sequence[int], curves: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """Writes the picture; names of curves that begin with "decode" are drawn as lines with dots."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for label, ratios in curves.items():
        axes.plot(contexts, ratios, "o-" if label.startswith("decode") else "s--", label=label)
    axes.set(xscale="log", yscale="log", xlabel="context, tokens", ylabel="times faster", title=title)
    axes.set_xticks(contexts, [f"{context // 1024}K" for context in contexts], minor=False)
    axes.minorticks_off()
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
