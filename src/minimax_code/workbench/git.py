"""git as a library: a repository of our own, that knows nobody's configuration and runs nobody's programs."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from minimax_code.errors import WorkspaceError

# What a repository can make git run: none of it, whoever wrote its configuration.
_SAFE = (
    "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.protectHFS=true", "core.protectNTFS=true",
    "core.quotePath=true", "gc.auto=0", "maintenance.auto=false", "protocol.allow=never",
    "core.fsync=loose-object", "core.fsyncMethod=batch",  # a tree that an event names is as safe as the event
    "core.bigFileThreshold=1024g",  # git makes packs of larger files, and can't in a batch
)  # fmt: skip


# For repositories of our own: no configuration but theirs.
ALONE = {"HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}


class Git:
    """Runs git on one repository.

    Args:
        env: which repository, by GIT_DIR and the like.
        cwd: where git runs; by default at "/", so that it finds nothing by chance.
    """

    def __init__(self, env: Mapping[str, str | Path], cwd: Path = Path("/")) -> None:
        self.env = {key: str(value) for key, value in env.items()}
        self._cwd = cwd

    def having(self, **env: str | Path) -> Git:
        """The same with other variables besides."""
        return Git({**self.env, **env}, self._cwd)

    async def __call__(self, *args: str | Path, stdin: bytes = b"", codes: tuple[int, ...] = (0,)) -> bytes:
        """What a git command says.

        Raises:
            WorkspaceError: it isn't there, or ends with none of `codes`.
        """
        code, output = await self.run(*args, stdin=stdin)
        if code not in codes:
            told = output.decode(errors="replace").strip().splitlines() or [f"exit code {code}"]
            raise WorkspaceError(f"git {args[0]} failed: {told[-1]}")
        return output

    async def run(self, *args: str | Path, stdin: bytes = b"") -> tuple[int, bytes]:
        """Exit code, and output, or where it failed what it said about it."""
        program = shutil.which("git")
        if program is None:
            raise WorkspaceError("git isn't there; install it with `apt-get install git`")
        configured = [word for setting in _SAFE for word in ("-c", setting)]
        process = await asyncio.create_subprocess_exec(
            program, *configured, *args, cwd=self._cwd, env={**_environment(), **self.env},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            output, told = await process.communicate(stdin)
        finally:
            if process.returncode is None:  # cancelled
                with suppress(ProcessLookupError):
                    process.kill()
                await asyncio.shield(process.communicate())
        assert process.returncode is not None
        return process.returncode, output if process.returncode == 0 else output + told


def _environment() -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "XDG_CONFIG_HOME") if key in os.environ}
    return {
        "PATH": os.defpath,
        **kept,
        "LC_ALL": "C.UTF-8",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_LITERAL_PATHSPECS": "1",
    }
