"""What a benchmark says about where and of what it was taken, and its share in every report."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Date, hardware and commit."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    features = next((line.split() for line in _lines("/proc/cpuinfo") if line.startswith("flags")), [])
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": model,
        "threads": torch.get_num_threads(),
        "avx512_bf16": "avx512_bf16" in features,
        "torch": torch.__version__,
        "commit": _git("rev-parse", "--short", "HEAD") + ("+changes" if _git("status", "--porcelain") else ""),
    }


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median, least and most of some samples."""
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def save(name: str, report: dict[str, Any], table: str, folder: Path = RESULTS) -> None:
    """Writes `DATE-NAME.md` and `.json` into a folder, and prints the JSON as the last line."""
    stem = folder / f"{report['machine']['date']}-{name}"
    line = json.dumps(report)
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    stem.with_suffix(".md").write_text(f"# {name}\n\n{machine}\n\n{table}\n")
    stem.with_suffix(".json").write_text(line + "\n")
    print(table)
    print(line)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=RESULTS, capture_output=True, text=True, check=False)
    return done.stdout.strip()
