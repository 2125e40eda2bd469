"""Where code of requests is run: in workspaces that end with the requests, in this machine's sandbox, or nowhere."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from minimax_code.errors import SandboxError
from minimax_code.skills.checks import lay
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.sandbox import Sandbox, find_sandbox
from minimax_code.workbench.workspace import Workspace

_AT_ONCE = 2  # requests whose code is at hand; the others wait


class Workshop:
    """Gives workbenches to requests, a few at once, in a sandbox that was tried once."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._sandbox: Sandbox | None = None

    @asynccontextmanager
    async def bench(self, files: Sequence[CodeFile]) -> AsyncIterator[tuple[Workbench | None, str]]:
        """A workbench over files, or None and why there is none: then nothing may be run, and nothing is verified."""
        problem = ""
        if self._sandbox is None:  # where there is none, somebody may install one
            try:
                self._sandbox = await asyncio.to_thread(find_sandbox)  # it starts a process
            except SandboxError as error:
                problem = str(error)
        if self._sandbox is None:
            yield None, problem
            return
        async with self._turns:
            with tempfile.TemporaryDirectory(prefix="openm3-code-") as name:
                async with await Workspace.create(None, Path(name, "files")) as workspace:
                    bench = Workbench(workspace, self._sandbox)
                    lay(bench, files)
                    yield bench, ""
