"""A hard limit on how many processes there are, for root, whom the kernel's own limits spare.

A bomb of processes doubles faster than anybody can count, so counting is not enough. In a control group that may have
no more, all of it can be ended.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "minimax-code-"
_END_S = 10.0
_YOUNG_S = 60.0


@contextmanager
def process_group(most: int) -> Iterator[Path | None]:
    """A control group for `most` threads, which ends with all that is in it; None where no such group can be made.

    A process joins by writing its number to `cgroup.procs` there.
    """
    group = _make(most)
    try:
        yield group
    finally:
        if group is not None:
            _remove(group)


def can_be_made() -> bool:
    """Whether this user can make such groups here."""
    with process_group(8) as group:
        return group is not None


def _make(most: int) -> Path | None:
    for parent in _parents():
        _remove_orphans(parent)
        group = parent / f"{_PREFIX}{os.getpid()}-{os.urandom(8).hex()}"
        try:
            group.mkdir()
        except OSError:
            continue
        with suppress(OSError):  # without this controller the file isn't there
            (group / "pids.max").open("r+").close()
            (group / "pids.max").write_text(str(most))
            return group
        group.rmdir()
    return None


def _remove_orphans(parent: Path) -> None:
    """Groups of processes that were killed before they could remove them.

    A new one, which nobody has joined yet, stays: it may be of a process that isn't seen from here, in a container.
    """
    for group in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else was faster, or something is left in it
            is_young = time.time() - group.stat().st_mtime < _YOUNG_S
            if not is_young and not Path("/proc", group.name.removeprefix(_PREFIX).split("-")[0]).exists():
                group.rmdir()


def _parents() -> Iterator[Path]:
    """Where groups may be made that limit processes: version 1 has a tree for it, version 2 one for everything."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "pids" in controllers.split(","):
                yield _ROOT / "pids" / path.lstrip("/")
            elif not controllers:
                yield from (_ROOT / path.lstrip("/"), _ROOT)


def end_group(group: Path) -> None:
    """Ends all that is in a group. Nothing can be started there any more, so nothing gets away."""
    with suppress(OSError):
        (group / "pids.max").write_text("0")
    until = time.monotonic() + _END_S
    while (pids := _pids(group)) and time.monotonic() < until:
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _pids(group: Path) -> list[int]:
    """Who is in a group; nobody in one that is gone."""
    try:
        listed = (group / "cgroup.procs").read_text().split()
    except OSError:
        return []
    return [pid for pid in map(int, listed) if pid]  # 0 is somebody who isn't seen from here, and to `kill` all of us


def _remove(group: Path) -> None:
    end_group(group)
    until = time.monotonic() + _END_S
    while time.monotonic() < until:
        try:
            return group.rmdir()
        except FileNotFoundError:
            return None
        except OSError:  # the last one is still leaving
            time.sleep(0.001)
