"""The heat map of `benchmarks.quality`: which keys each method finds, by length and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes a picture: one map a method, lengths from left to right, depths from the beginning at the top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    keys = {method: found for method, found in report["keys"].items() if found}
    lengths = sorted({int(length) for found in keys.values() for length in found})
    depths = sorted({depth for found in keys.values() for row in found.values() for depth in row}, key=float)
    figure, axes = plt.subplots(1, len(keys), figsize=(1.5 + 2.2 * len(keys), 2.6), sharey=True, squeeze=False)
    for axis, (method, found) in zip(axes[0], keys.items(), strict=True):
        nan = float("nan")
        cells = [[found.get(str(length), {}).get(depth, nan) for length in lengths] for depth in depths]
        image = axis.imshow(cells, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        axis.set_title(method, fontsize=9)
        axis.set_xticks(range(len(lengths)), [f"{length // 1024}K" for length in lengths], fontsize=7, rotation=90)
        axis.set_yticks(range(len(depths)), [f"{float(depth):.0%}" for depth in depths], fontsize=7)
        axis.axvline(sum(length <= report["trained"] for length in lengths) - 0.5, color="black", linewidth=1)
    axes[0][0].set_ylabel("where the key is", fontsize=8)
    figure.suptitle(y=1.06, t=f"{report['model']}: keys found; the line is the trained window", fontsize=9)
    figure.colorbar(image, ax=axes[0].tolist(), shrink=0.8)
    figure.savefig(path, dpi=130, bbox_inches="tight")
