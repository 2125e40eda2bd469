"""How kernels are launched on a class of GPUs: measured once, kept as data, never searched for at run time.

The table of a GPU is the file that `openm3 tune` wrote on this machine, else that of its class below, else one that
fits everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from openm3 import hub
from openm3.errors import OpenM3Error


@dataclass(frozen=True)
class Launch:
    """Rows of a tile, programs for each multiprocessor, warps of a program, tiles of keys in flight."""

    rows: int
    programs: int
    warps: int
    stages: int

    def __str__(self) -> str:
        programs = f"{self.programs} programs a multiprocessor, " if self.programs else ""
        return f"{self.rows} rows, {programs}{self.warps} warps, {self.stages} stages"


@dataclass(frozen=True)
class Tuning:
    """The launches of one class of GPUs.

    Attributes:
        scan_few, scan_many: block scores of few queries (a decode step) and of many.
        bound_few: bounds of them from keys of 8 bits.
        dense_few, dense_many: attention over all tokens.
        sparse_few, sparse_many: attention over chosen blocks, by query.
        by_block: the same, by block; a block's queries are shared out to so many programs for each multiprocessor.
        by_block_readers: queries that must read a block on average for that to be faster.
    """

    scan_few: Launch = Launch(16, 3, 4, 2)
    scan_many: Launch = Launch(128, 4, 4, 2)
    bound_few: Launch = Launch(16, 3, 4, 2)
    dense_few: Launch = Launch(16, 0, 4, 2)
    dense_many: Launch = Launch(64, 0, 4, 2)
    sparse_few: Launch = Launch(16, 0, 4, 1)
    sparse_many: Launch = Launch(16, 0, 4, 1)
    by_block: Launch = Launch(64, 16, 4, 1)
    by_block_readers: int = 4

    @property
    def launches(self) -> dict[str, Launch]:
        """By name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: launch for name, launch in named.items() if isinstance(launch, Launch)}


# By compute capability, the first number; for others the values above, which fit 100 KB of shared memory.
_TUNED = {
    9: Tuning(  # H100 and H200, LOG.md
        scan_few=Launch(16, 3, 4, 3),
        scan_many=Launch(128, 4, 8, 2),
        bound_few=Launch(16, 3, 4, 5),
        dense_few=Launch(16, 0, 4, 3),
        dense_many=Launch(128, 0, 8, 3),
        sparse_few=Launch(16, 0, 4, 2),
        sparse_many=Launch(16, 0, 4, 2),
    ),
}

_in_use: dict[torch.device, tuple[Tuning, str]] = {}


def tuning(device: torch.device) -> Tuning:
    """The launches for a device."""
    return _found(device)[0]


def origin(device: torch.device) -> str:
    """Where they come from, for people."""
    return _found(device)[1]


def table_path(name: str) -> Path:
    """Where `openm3 tune` keeps the table of a GPU of that name."""
    return hub.home() / "gpu" / f"{'-'.join(name.lower().split())}.json"


def write(table: Tuning, path: Path) -> None:
    """Writes a table as data that people can read and change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(table), indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Tuning:
    """The table in a file.

    Raises:
        OpenM3Error: it holds something else.
    """
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values: dict[str, Any] = {name: Launch(**x) if isinstance(x, dict) else int(x) for name, x in held.items()}
        return Tuning(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise OpenM3Error(f"{path} is no table of launches ({error}); remove it, or run openm3 tune") from error


@contextmanager
def using(device: torch.device, table: Tuning) -> Iterator[None]:
    """Launches by another table for a while."""
    before = _found(device)
    _in_use[device] = table, "tried"
    try:
        yield
    finally:
        _in_use[device] = before


def _found(device: torch.device) -> tuple[Tuning, str]:
    if device not in _in_use:
        _in_use[device] = _look_up(device)
    return _in_use[device]


def _look_up(device: torch.device) -> tuple[Tuning, str]:
    if device.type != "cuda":
        return Tuning(), "launches that fit everywhere"
    path = table_path(torch.cuda.get_device_name(device))
    if path.exists():
        return read(path), f"tuned on this machine ({path})"
    table = _TUNED.get(torch.cuda.get_device_capability(device)[0])
    if table is None:
        return Tuning(), "not measured on its class: launches that fit everywhere; openm3 tune measures them"
    return table, "tuned for its class"
