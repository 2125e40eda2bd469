"""What tests of skills stand on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from helpers.benches import MakeBench, bench_over


@pytest.fixture
def make_bench(tmp_path: Path) -> MakeBench:
    """Makes a workbench over files."""
    return partial(bench_over, folder=tmp_path)
