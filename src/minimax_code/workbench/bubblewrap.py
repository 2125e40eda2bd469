"""bubblewrap: namespaces of the kernel's own, in which the rest of the machine isn't there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from minimax_code.errors import SandboxError
from minimax_code.workbench.confinement import Sandbox, visible
from minimax_code.workbench.running import Launch, Limits

_NAMESPACES = (
    "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
    "--disable-userns", "--die-with-parent", "--cap-drop", "ALL", "--hostname", "sandbox",
)  # fmt: skip


class Bubblewrap(Sandbox):
    """Runs commands under bwrap, 0.8 or later."""

    name = "bubblewrap"

    @contextmanager
    def _launch(
        self, command: Sequence[str], folder: Path, writable: bool, limits: Limits, env: dict[str, str]
    ) -> Iterator[Launch]:
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxError("bwrap isn't there any more; install it with `apt-get install bubblewrap`")
        seen = [word for path in (*visible(), *self.readable) for word in _bind(path)]
        with _pipe() as (status, told):
            argv = [
                program, *_NAMESPACES, "--json-status-fd", str(told), "--proc", "/proc", "--dev", "/dev",
                "--size", str(limits.memory_bytes // 4), "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
                "--size", str(limits.memory_bytes // 4), "--tmpfs", "/tmp", *seen,
                "--bind" if writable else "--ro-bind", str(folder), str(folder), "--remount-ro", "/",
                "--chdir", str(folder), "--", *command,
            ]  # fmt: skip

            def ended(code: int, output: str) -> int:
                # What is said there is bwrap's own word; a command can't write to it.
                with suppress(BlockingIOError):
                    if b"exit-code" in os.read(status, 1 << 16):
                        return code
                if output.startswith("bwrap: execvp"):
                    return 127
                raise SandboxError(f"bubblewrap can't start ({output.strip()}); `minimax-code doctor` says what helps")

            yield Launch(argv=argv, env=env, cwd=Path("/"), fds=(told,), ended=ended)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _bind(path: Path) -> Iterator[str]:
    if path.is_symlink() and path.parent == Path("/"):  # /bin, on systems where it is /usr/bin
        yield from ("--symlink", os.readlink(path), str(path))
    else:
        yield from ("--ro-bind", str(path.resolve()), str(path))
