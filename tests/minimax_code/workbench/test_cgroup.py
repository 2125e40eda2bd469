"""Control groups that others remove, or that have somebody in them who can't be seen: folders stand for them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minimax_code.errors import SandboxError
from minimax_code.workbench import cgroup, running
from minimax_code.workbench.sandbox import find_sandbox


def test_nobody_runs_without_the_limit_of_a_group_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def gone(most: int) -> Generator[Path, None, None]:
        yield tmp_path / "gone"

    monkeypatch.setattr(running, "process_group", gone)
    with pytest.raises(SandboxError):
        asyncio.run(find_sandbox().run(["touch", "run"], folder=tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_group_ends_whoever_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Number 0, as which the kernel lists processes of other containers, would be all of this process's own group."""
    monkeypatch.setattr(cgroup, "_END_S", 0.02)
    cgroup.end_group(tmp_path / "gone")
    cgroup._remove(tmp_path / "gone")
    ended = os.fork() or os._exit(0)
    os.waitpid(ended, 0)
    (tmp_path / "cgroup.procs").write_text(f"0\n{ended}\n")
    cgroup.end_group(tmp_path)


def test_only_old_groups_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    names = {"minimax-code-4194304999-old", "minimax-code-4194304999-new", f"minimax-code-{os.getpid()}-old"}
    for name in names:
        (tmp_path / name).mkdir()
        if name.endswith("old"):
            os.utime(tmp_path / name, (time.time() - 100,) * 2)
    cgroup._remove_orphans(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == names - {"minimax-code-4194304999-old"}
