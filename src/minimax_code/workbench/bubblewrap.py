"""bubblewrap: namespaces of the kernel's own, in which the rest of the machine isn't there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from minimax_code.errors import SandboxError
from minimax_code.workbench import seccomp
from minimax_code.workbench.confinement import Sandbox, environment, memory_file, status_pipe, visible
from minimax_code.workbench.running import THREADS, Launch, Limits

_NAMESPACES = (
    "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
    "--disable-userns", "--die-with-parent", "--cap-drop", "ALL", "--hostname", "sandbox",
)  # fmt: skip


class Bubblewrap(Sandbox):
    """Runs commands under bwrap, 0.8 or later."""

    name = "bubblewrap"

    @staticmethod
    def program() -> str | None:
        """Where it is, if it is there."""
        return shutil.which("bwrap")

    @contextmanager
    def _launch(
        self, command: Sequence[str], folder: Path, writable: bool, limits: Limits, env: Mapping[str, str]
    ) -> Iterator[Launch]:
        program = self.program()
        if program is None:
            raise SandboxError("bwrap isn't there")
        seen = [word for path in (*visible(), *self.readable) for word in _bind(path)]
        variables = [word for item in environment("/tmp", self.python, env).items() for word in ("--setenv", *item)]
        in_memory = ("--size", str(limits.memory_bytes // 4), "--tmpfs")
        with status_pipe() as (status, told), memory_file("seccomp", seccomp.in_namespaces()) as rules:
            argv = [
                program, *_NAMESPACES, "--clearenv", *variables, "--json-status-fd", str(told), "--seccomp", str(rules),
                "--proc", "/proc", "--dev", "/dev", *in_memory, "/dev/shm", "--remount-ro", "/dev", *in_memory, "/tmp",
                *seen, "--bind" if writable else "--ro-bind", str(folder), str(folder), "--remount-ro", "/",
                "--chdir", str(folder), "--", *_limited(limits.processes * THREADS), *command,
            ]  # fmt: skip

            def ended(code: int, output: str) -> int:
                if b"exit-code" in status():
                    return code
                if output.startswith("bwrap: execvp"):
                    return 127
                raise SandboxError(f"bubblewrap can't start ({output.strip()})")

            yield Launch(argv=argv, fds=(told, rules), own=(folder,), ended=ended)


def _limited(tasks: int) -> Iterator[str]:
    """A user's limit counts the processes of a namespace alone, once it is set there; the shells call it -p or -u."""
    if os.geteuid() != 0:
        yield from ("/bin/sh", "-c", '{ ulimit -p "$0" || ulimit -u "$0"; } 2>/dev/null; exec "$@"', str(tasks))


def _bind(path: Path) -> Iterator[str]:
    if path.is_symlink() and path.parent == Path("/"):  # /bin, on systems where it is /usr/bin
        yield from ("--symlink", os.readlink(path), str(path))
    else:
        yield from ("--ro-bind", str(path.resolve()), str(path))
