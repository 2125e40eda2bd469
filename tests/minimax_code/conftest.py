"""What all of these share: stores of each kind, and a calibration by which scripted models drive themselves."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from pathlib import Path

import pytest

from helpers.clock import Clock
from helpers.postgres import new_schema
from minimax_code.skills.calibration import Calibration, default_cache, keep_calibration
from minimax_code.store import Store

_names = itertools.count()


@pytest.fixture(autouse=True, scope="session")
def _known_models(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("scripted", "memoryless", "minimax-m3"):
            for known in (name, f"{name} at 127.0.0.1"):
                strong = Calibration(model=known, call_style="native", strategy="agent", judges=True)
                keep_calibration(strong, default_cache())
        yield


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "jobs.db")
    return new_schema(request.getfixturevalue("postgres_url"), f"jobs{next(_names)}")


@pytest.fixture
def clock() -> Clock:
    """Noon of 2026-03-01 in UTC."""
    return Clock(1_772_366_400.0)


@pytest.fixture
def store(store_url: str, clock: Clock) -> Generator[Store, None, None]:
    opened = Store(store_url, now=clock)
    yield opened
    opened.close()
