"""What every sandbox is and does: visible folders, environment, limits, and the answer."""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from minimax_code.errors import SandboxError
from minimax_code.record import Record
from minimax_code.workbench import seccomp
from minimax_code.workbench.interpreter import shown_for
from minimax_code.workbench.running import CLEAN, Launch, Limits, Stopped, supervise

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
# Of /etc only what programs need to start; there are keys and passwords in the rest.
_ETC = (
    "alternatives", "group", "hosts", "java-*-openjdk", "ld.so.cache", "nsswitch.conf", "passwd", "ssl/certs",
    "ssl/openssl.cnf",
)  # fmt: skip


class Ran(Record):
    """A command that was run.

    Attributes:
        exit_code: None where it didn't end by itself; 127 where there is no such program; 128 and the signal's number
            where a signal ended it.
        output: what it said, up to the limit; what isn't UTF-8 is replaced.
        sandbox: the sandbox's name.
        stopped: the limit that ended it, "" where none did.
    """

    command: tuple[str, ...]
    exit_code: int | None
    output: str
    seconds: float
    sandbox: str
    stopped: Stopped = ""


class Sandbox(ABC):
    """Runs commands that nobody vouches for.

    A command sees the system's programs and libraries, this Python's, `readable` and its folder, under their own
    paths, and of these changes only its folder. It has no network and nothing of the environment, HOME and TMPDIR are
    a folder that ends with it, and when it ends everything that it has started ends too.

    Args:
        readable: what commands may read besides.
        python: the interpreter that commands call `python`; they may read its packages too.
    """

    name: str
    """As receipts call it."""

    def __init__(self, readable: Sequence[Path] = (), *, python: str = sys.executable) -> None:
        shown = shown_for(python) if python != sys.executable else ()
        self.readable = (*shown, *(path.resolve() for path in readable))
        self.python = python

    def problem(self) -> str | None:
        """Why it doesn't work here, found out by running a command that does nothing; None where it works."""
        if not seccomp.is_known():
            return f"{platform.machine()} is not among the machines whose system calls are known (x86_64, aarch64)"
        try:
            with self._launch(("true",), Path("/usr"), False, Limits(), {}) as launch:
                done = subprocess.run(
                    launch.argv, env=CLEAN, pass_fds=launch.fds, capture_output=True, text=True, check=False
                )
                launch.ended(done.returncode, done.stderr)
        except (OSError, SandboxError) as error:
            return str(error)
        return None

    async def run(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        writable: bool = True,
        limits: Limits | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        stderr: bool = True,
    ) -> Ran:
        """Runs a command in a folder, to its end or the first limit.

        Args:
            env: added to the few variables that programs need, or in their place.
            stderr: whether what it says there is part of the output; else it is dropped.

        Raises:
            SandboxError: the sandbox can't be started, or the folder is not there.
        """
        limits = limits or Limits()
        folder = folder.resolve()
        if not folder.is_dir():
            raise SandboxError(f"{folder} is not a folder, so nothing can be run in it")
        if not command or any("\0" in word for word in command):
            raise SandboxError("a command needs at least one word, and none with a NUL character")
        with self._launch(command, folder, writable, limits, env or {}) as launch:
            try:
                outcome = await supervise(launch, limits=limits, stdin=stdin, stderr=stderr, end=self._end)
            except OSError as error:
                raise SandboxError(f"{self.name} can't be started: {error}") from error
            output = outcome.output.decode(errors="replace")
            if outcome.exit_code is not None:
                outcome.exit_code = launch.ended(outcome.exit_code, output)
        return Ran(
            command=tuple(command),
            exit_code=outcome.exit_code,
            output=output,
            seconds=outcome.seconds,
            sandbox=self.name,
            stopped=outcome.stopped,
        )

    @abstractmethod
    def _launch(
        self, command: Sequence[str], folder: Path, writable: bool, limits: Limits, env: Mapping[str, str]
    ) -> AbstractContextManager[Launch]:
        """How the command is started in its sandbox; what that needs is there until the context ends."""

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Ends the sandbox with everything in it."""
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def visible() -> Iterator[Path]:
    """What every command may read: the system, and where this Python and its packages are."""
    packages = (Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))
    paths = [
        *map(Path, _SYSTEM),
        *(path for name in _ETC for path in Path("/etc").glob(name)),
        Path(sys.prefix),
        Path(sys.base_prefix),
    ]
    seen: set[Path] = set()
    for path in (*paths, *packages):
        if path.exists() and path not in seen and not any(parent in seen for parent in path.parents):
            seen.add(path)
            yield path


def environment(home: str, python: str, env: Mapping[str, str]) -> dict[str, str]:
    """What a command finds there: nothing of our own, for there may be keys in it."""
    programs = dict.fromkeys((os.path.dirname(python), f"{sys.prefix}/bin"))
    return {
        "PATH": os.pathsep.join([*programs, "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]),
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",  # compiled files are no part of anybody's change
        **env,
    }


@contextmanager
def status_pipe() -> Iterator[tuple[Callable[[], bytes], int]]:
    """What a sandbox says of itself, where no command can write: how to read it, and the end to write to."""
    there, here = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def read() -> bytes:
        try:
            return os.read(there, 1 << 16)
        except BlockingIOError:
            return b""

    try:
        yield read, here
    finally:
        os.close(there)
        os.close(here)


@contextmanager
def memory_file(name: str, content: bytes) -> Iterator[int]:
    """What a sandbox is told that is too much for a command line."""
    file = os.memfd_create(name)
    try:
        os.write(file, content)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)
