"""The search for launches, with times that are made up: which of them it takes, and what it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from openm3.errors import OpenM3Error
from openm3.kernels import gpu_tuning
from openm3.kernels.backend import BACKENDS
from openm3.kernels.gpu_search import CANDIDATES, search
from openm3.kernels.gpu_tuning import Launch, Tuning

CPU = torch.device("cpu")


class Layer:
    """Calls that give the launch which they would use; the fake clock times that."""

    def calls(self) -> dict[str, Callable[[], object]]:
        return {kind: lambda kind=kind: gpu_tuning.tuning(CPU).launches[kind] for kind in CANDIDATES}


def made_up(call: Callable[[], object]) -> float:
    """Four stages are fastest, and three programs."""
    launch = call()
    assert isinstance(launch, Launch)
    return 1 + abs(launch.stages - 4) + abs(launch.programs - 3)


@pytest.mark.skipif("triton" not in BACKENDS, reason="triton is not installed")
def test_the_fastest_of_each_kind_is_taken() -> None:
    said: list[str] = []
    table = search(CPU, Layer(), ["scan_few", "dense_few"], made_up, said.append)  # type: ignore[arg-type]
    assert table == dataclasses.replace(Tuning(), scan_few=Launch(16, 3, 4, 4), dense_few=Launch(16, 0, 4, 4))
    assert said[0] == "scan_few: 16 rows, 3 programs a multiprocessor, 4 warps, 4 stages, 1.000 ms (was 3.000 ms)"
    assert gpu_tuning.tuning(CPU) == Tuning(), "nothing that was tried stays in use"


@pytest.mark.skipif("triton" not in BACKENDS, reason="triton is not installed")
def test_a_launch_that_does_not_fit_is_left_out() -> None:
    from triton.runtime.errors import OutOfResources

    def time(call: Callable[[], object]) -> float:
        if gpu_tuning.tuning(CPU).scan_few.stages > 2:
            raise OutOfResources(300000, 232448, "shared memory")
        return made_up(call)

    assert search(CPU, Layer(), ["scan_few"], time, lambda line: None).scan_few.stages == 2  # type: ignore[arg-type]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = Tuning(scan_few=Launch(16, 5, 8, 3), by_block_readers=7)
    gpu_tuning.write(table, tmp_path / "gpu" / "table.json")
    assert gpu_tuning.read(tmp_path / "gpu" / "table.json") == table
    (tmp_path / "bad.json").write_text('{"scan_few": {"rows": 16}}')
    with pytest.raises(OpenM3Error, match=r"bad.json is no table of launches .*; remove it, or run openm3 tune"):
        gpu_tuning.read(tmp_path / "bad.json")
