"""Runs analysers over hostile files, with limits or in a sandbox as well, and never the files themselves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from minimax_code.workbench.running import Limits
from minimax_code.workbench.sandbox import Sandbox

_CPU_S, _WALL_S = 30, 40
_SANDBOX_S = 300  # a repository's own types take longer than a request's
_MEMORY_BYTES, _FILE_BYTES, _OUTPUT_BYTES = 4 << 30, 16 << 20, 16 << 20

# -I: neither the folder nor the environment adds modules, so a file named ruff.py is not ruff.
_PYTHON = (sys.executable, "-I", "-c")
_MODULE = "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
_IMPORTS = "import resource, runpy, sys\n"
_LIMITS = f"""\
{_IMPORTS}\
for kind, most in (("CPU", {_CPU_S}), ("AS", {_MEMORY_BYTES}), ("FSIZE", {_FILE_BYTES}), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (most, most))
"""
_at_once = 2  # analysers of all requests


@dataclass(frozen=True)
class Ran:
    """How a program ended.

    Attributes:
        exit_code: None where it was ended for taking too long or saying too much.
    """

    exit_code: int | None
    output: bytes


class Programs(Protocol):
    """What runs analysers."""

    @property
    def sandbox(self) -> str:
        """As receipts have it."""
        ...

    async def module(self, folder: Path, module: str, args: Sequence[str], env: Mapping[str, str]) -> Ran:
        """A Python module as a program."""
        ...

    async def script(self, folder: Path, script: str, args: Sequence[str]) -> Ran:
        """A program of ours."""
        ...


class InSandbox:
    """Runs programs in a sandbox, in folders that they can't change."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    @property
    def sandbox(self) -> str:
        return self._sandbox.name

    async def module(self, folder: Path, module: str, args: Sequence[str], env: Mapping[str, str]) -> Ran:
        return await self._run(folder, _IMPORTS + _MODULE, [module, *args], env)

    async def script(self, folder: Path, script: str, args: Sequence[str]) -> Ran:
        return await self._run(folder, _IMPORTS + script, args, {})

    async def _run(self, folder: Path, script: str, args: Sequence[str], env: Mapping[str, str]) -> Ran:
        limits = Limits(seconds=_SANDBOX_S, memory_bytes=_MEMORY_BYTES, output_bytes=_OUTPUT_BYTES)
        ran = await self._sandbox.run(
            [*_PYTHON, script, *args], folder=folder, writable=False, limits=limits, env=env, stderr=False
        )
        return Ran(ran.exit_code, ran.output.encode())


class Runner:
    """Runs programs with limits, a few at once: for files alone in a folder, of which nothing is run."""

    sandbox = ""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_at_once)

    async def module(self, folder: Path, module: str, args: Sequence[str], env: Mapping[str, str]) -> Ran:
        """A Python module as a program."""
        return await self._run(folder, _LIMITS + _MODULE, [module, *args], env)

    async def script(self, folder: Path, script: str, args: Sequence[str]) -> Ran:
        """A program of ours."""
        return await self._run(folder, _LIMITS + script, args, {})

    async def _run(self, folder: Path, script: str, args: Sequence[str], env: Mapping[str, str]) -> Ran:
        own = {"PATH": os.defpath, "HOME": str(folder), "LC_ALL": "C.UTF-8", "RAYON_NUM_THREADS": "1"}
        async with self._turns:
            process = await asyncio.create_subprocess_exec(
                *_PYTHON,
                script,
                *args,
                cwd=folder,
                env={**own, **env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(_WALL_S):
                    output = await _read(process)
                    return Ran(await process.wait(), output)
            except (TimeoutError, _TooMuch):
                return Ran(None, b"")
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


class _TooMuch(Exception):
    """A program has said more than anybody would read."""


async def _read(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    output = bytearray()
    while piece := await process.stdout.read(1 << 16):
        output += piece
        if len(output) > _OUTPUT_BYTES:
            raise _TooMuch
    return bytes(output)
