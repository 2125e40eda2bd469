"""Landlock and seccomp, where namespaces can't be had: the rest of the machine is there, and out of reach."""

from __future__ import annotations

import asyncio
import marshal
import os
import shutil
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from minimax_code.errors import SandboxError
from minimax_code.workbench import confine, seccomp
from minimax_code.workbench.cgroup import can_be_made
from minimax_code.workbench.confinement import Sandbox, environment, memory_file, status_pipe, visible
from minimax_code.workbench.running import THREADS, Launch, Limits

LEAST_ABI, ABI_WITH_SIGNALS = 3, 6
# What programs ask of the kernel about the machine; the rest of /proc is about other processes.
_PROC = ("cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "sys/kernel", "sys/vm", "uptime", "version")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_END_S = 10.0
# As a module it isn't compiled each time. Its folder comes last, so that it hides none of Python's own modules.
_START = "import sys; sys.path.append(sys.argv[1]); import confine; confine.main(int(sys.argv[2]))"


class Launcher(Sandbox):
    """Runs commands under a process of ours, which ends all that they start."""

    @contextmanager
    def _launch(
        self, command: Sequence[str], folder: Path, writable: bool, limits: Limits, env: Mapping[str, str]
    ) -> Iterator[Launch]:
        own = Path(tempfile.mkdtemp(prefix="minimax-code-"))
        with status_pipe() as (status, told):
            spec = {
                "command": list(command),
                "folder": str(folder),
                "env": environment(str(own), self.python, env),
                "status": told,
                "tasks": limits.processes * THREADS if os.geteuid() else None,
                "rules": self._rules(folder, own, writable),
            }

            def ended(code: int, output: str) -> int:
                said, _, what = status().decode(errors="replace").partition(" ")
                if said == "exit-code":
                    return int(what)
                raise SandboxError(f"{self.name} can't start ({what or output.strip() or code})")

            try:
                with memory_file("command", marshal.dumps(spec)) as described:
                    argv = [
                        sys.executable,
                        "-I",
                        "-S",
                        "-c",
                        _START,
                        str(Path(confine.__file__).parent),
                        str(described),
                    ]
                    yield Launch(argv=argv, fds=(told, described), own=(folder, own), ended=ended)
            finally:
                shutil.rmtree(own, ignore_errors=True)

    def problem(self) -> str | None:
        """As of every sandbox; first of all whether there is a hard limit on processes."""
        if os.geteuid() == 0 and not can_be_made():
            return "root's processes are only limited in control groups, and none can be made here; use another user"
        return super().problem()

    @abstractmethod
    def _rules(self, folder: Path, own: Path, writable: bool) -> dict[str, Any] | None:
        """The arguments of `confine`; None for no confinement."""

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await process.wait()
            process.kill()
        await process.wait()


class Landlock(Launcher):
    """Runs commands that confine themselves first.

    Beside what every sandbox forbids, there are no sockets at all, modes and owners of files can't be changed, and
    before version 6 of Landlock (Linux 6.12) no signals can be sent. Names and sizes of other files can be seen.

    Args:
        abi: act as on a kernel with this version.
    """

    name = "landlock"

    def __init__(self, readable: Sequence[Path] = (), abi: int | None = None, *, python: str = sys.executable) -> None:
        super().__init__(readable, python=python)
        self.abi = confine.abi() if abi is None else abi

    def _rules(self, folder: Path, own: Path, writable: bool) -> dict[str, Any]:
        read = [*visible(), *self.readable, *(Path("/proc", name) for name in _PROC)]
        written = [own, *(Path("/dev", name) for name in _DEVICES)]
        (written if writable else read).append(folder)
        return {
            "version": self.abi,
            "readable": list(map(str, read)),
            "writable": list(map(str, written)),
            "program": seccomp.beside_others(signals=self.abi >= ABI_WITH_SIGNALS),
        }

    def problem(self) -> str | None:
        """As of every sandbox; first of all the kernel's version."""
        if self.abi < LEAST_ABI:
            return f"this kernel has Landlock's version {self.abi}, and {LEAST_ABI} is needed (Linux 6.2, and enabled)"
        return super().problem()
