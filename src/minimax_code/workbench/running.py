"""Runs a program as its own session, watches what it and its children use, and ends them all.

Most of the kernel's limits are of one process each. What all of them together use is looked at several times a second;
a tree that uses too much is ended whole, and the report says of what. How many there are has a hard limit besides.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from minimax_code.record import Record
from minimax_code.workbench.cgroup import end_group, process_group

Stopped = Literal["", "seconds", "memory", "processes", "output", "disk"]
"""The limit that ended a program, or "" where it ended by itself."""

_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.02, 0.1
THREADS = 8  # for each process that may be there
_PAGE = os.sysconf("SC_PAGE_SIZE")
# The shell's own limits need no program that may be missing. Sizes are in KiB and in blocks of 512 bytes.
# Until the sandbox is there a variable such as LD_PRELOAD could bring anything in.
CLEAN = {"PATH": os.defpath, "LANG": "C.UTF-8"}
# Who can't join the group, as it is gone, doesn't go on without its limit.
_ULIMIT = 'ulimit -c 0; ulimit -d "$1"; ulimit -f "$2"; [ -z "$3" ] || echo $$ > "$3" || exit; shift 3; exec "$@"'


class Limits(Record):
    """What a program and all its children together may use.

    Attributes:
        seconds: until everything is ended.
        memory_bytes: of all processes; a single one is refused more, all together are ended. Files in /tmp count apart,
            up to half of it.
        processes: at once, with 8 threads for each.
        output_bytes: of standard output and error together.
        disk_bytes: a single file can't grow larger; the folder that grows by more ends the run.
    """

    seconds: float = 120.0
    memory_bytes: int = 4 << 30
    processes: int = 128
    output_bytes: int = 8 << 20
    disk_bytes: int = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a command is started in a sandbox.

    Attributes:
        fds: open files that it inherits.
        own: folders that it fills, whose growth is limited.
        ended: given the exit code and the output, the exit code of the command; raises SandboxError where the sandbox
            never came to start it.
    """

    argv: Sequence[str]
    fds: Sequence[int] = ()
    own: Sequence[Path] = ()
    ended: Callable[[int, str], int] = lambda code, output: code if code >= 0 else 128 - code


@dataclass(kw_only=True)
class Outcome:
    """How it ended; `exit_code` is None where a limit ended it."""

    exit_code: int | None = None
    output: bytearray = field(default_factory=bytearray)
    stopped: Stopped = ""
    seconds: float = 0.0


async def supervise(
    launch: Launch,
    *,
    limits: Limits,
    stdin: bytes,
    stderr: bool,
    end: Callable[[asyncio.subprocess.Process], Awaitable[None]],
) -> Outcome:
    """Runs a program to its end, or to the first limit; nothing of it is left when this returns, even when cancelled.

    Args:
        stderr: whether what it says there is part of the output; else it is dropped.
        end: ends the program with all its children.

    Raises:
        OSError: it can't be started.
    """
    outcome = Outcome()
    began = time.monotonic()
    with process_group(limits.processes * THREADS) as group:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", _ULIMIT, "sh", str(limits.memory_bytes >> 10), str(limits.disk_bytes >> 9),
            str(group / "cgroup.procs") if group else "", *launch.argv,
            env=CLEAN, cwd="/", pass_fds=launch.fds, start_new_session=True,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if stderr else asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        tasks = [
            asyncio.create_task(_finish(process, outcome, limits)),
            asyncio.create_task(_watch(process.pid, outcome, limits, launch.own)),
            asyncio.create_task(_feed(process, stdin)),
        ]
        try:
            done, _ = await asyncio.wait(tasks[:2], timeout=limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                outcome.stopped = "seconds"
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if group is not None and process.returncode is None:
                end_group(group)
            # asyncio calls a process ended when its output was read to the end.
            await asyncio.shield(asyncio.gather(end(process), _drain(process)))
    if not outcome.stopped:
        outcome.exit_code = process.returncode
    outcome.seconds = time.monotonic() - began
    return outcome


async def _finish(process: asyncio.subprocess.Process, outcome: Outcome, limits: Limits) -> None:
    assert process.stdout is not None
    while piece := await process.stdout.read(1 << 16):
        outcome.output += piece[: limits.output_bytes - len(outcome.output)]
        if len(outcome.output) >= limits.output_bytes:
            outcome.stopped = "output"
            return
    await process.wait()


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(1 << 16):
        pass


async def _feed(process: asyncio.subprocess.Process, stdin: bytes) -> None:
    if process.stdin is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):  # it needn't read what it is given
        process.stdin.write(stdin)
        await process.stdin.drain()
    process.stdin.close()


async def _watch(pid: int, outcome: Outcome, limits: Limits, folders: Sequence[Path]) -> None:
    """Returns when a limit is passed."""
    began, free = time.time(), [_free(folder) for folder in folders]
    pause = _FIRST_LOOK_S
    while not outcome.stopped:
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_LOOK_S)
        pids, threads, memory = [], 0, 0
        for one in tree_of(pid):
            used = _used(one)
            pids.append(one)
            threads, memory = threads + used[0], memory + used[1]
            if len(pids) > limits.processes or threads > limits.processes * THREADS:
                outcome.stopped = "processes"
                return
        # Pages that processes share are in the sum once for each, so it is only a reason to look closer.
        if memory > limits.memory_bytes and sum(map(_own_memory, pids)) > limits.memory_bytes:
            outcome.stopped = "memory"
        for place, folder in enumerate(folders):
            if free[place] - _free(folder) > limits.disk_bytes:  # whoever it was
                free[place] = _free(folder)
                if _written_since(began, folder) > limits.disk_bytes:
                    outcome.stopped = "disk"


def tree_of(pid: int) -> Iterator[int]:
    """A process and its descendants, as far as they are there."""
    found = [pid]
    while found:
        one = found.pop()
        yield one
        with suppress(OSError):  # it has ended
            for thread in os.listdir(f"/proc/{one}/task"):
                children = Path(f"/proc/{one}/task/{thread}/children").read_bytes()
                found += map(int, children.split())


def _used(pid: int) -> tuple[int, int]:
    """Threads, and bytes of memory."""
    with suppress(OSError):
        # The name before them is in brackets, and may have anything in it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[17]), int(fields[21]) * _PAGE
    return 0, 0


def _own_memory(pid: int) -> int:
    """Bytes, where a page that n processes share counts as an n-th of it."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) << 10
    return _used(pid)[1]


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _written_since(when: float, folder: Path) -> int:
    """Bytes of the files that have changed; the time of a change can't be forged."""
    total = 0
    for name, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                found = os.lstat(os.path.join(name, file))
                total += found.st_blocks * 512 if found.st_ctime >= when else 0
    return total
