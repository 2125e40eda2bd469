"""Which sandboxes there are, which of them work here, and the one to use."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from minimax_code.errors import SandboxError
from minimax_code.record import Record
from minimax_code.workbench.bubblewrap import Bubblewrap
from minimax_code.workbench.confinement import Ran, Sandbox
from minimax_code.workbench.landlock import Landlock
from minimax_code.workbench.running import Limits
from minimax_code.workbench.unconfined import Unconfined

__all__ = ["Limits", "Probe", "Ran", "Sandbox", "find_sandbox", "probe"]

# The best first; "none" is never chosen by itself.
_SANDBOXES: Mapping[str, type[Sandbox]] = {"bubblewrap": Bubblewrap, "landlock": Landlock, "none": Unconfined}
_WHAT = {
    "bubblewrap": "own namespaces, no network, limits on all processes together",
    "landlock": "no other files, no sockets, limits on all processes together; modes of files can't be changed",
    "none": "nothing is kept from anything; only where it is asked for by name",
}
# Settings of the kernel that forbid namespaces: the value that does, and one that doesn't.
_OBSTACLES = (
    ("kernel.apparmor_restrict_unprivileged_userns", 1, 0),
    ("kernel.unprivileged_userns_clone", 0, 1),
    ("user.max_user_namespaces", 0, 15000),
)


class Probe(Record):
    """Whether something works on this machine.

    Attributes:
        detail: what it gives where it works, else why it doesn't.
        remedy: the command or the change that mends it; "" where there is nothing to mend, or nothing to do.
    """

    name: str
    works: bool
    detail: str
    remedy: str = ""


def find_sandbox(name: str | None = None, readable: Sequence[Path] = (), *, python: str = sys.executable) -> Sandbox:
    """The sandbox of that name, or the best that works here.

    Args:
        readable: what commands may read besides the system and this Python.
        python: the interpreter that commands call `python`, with its packages.

    Raises:
        SandboxError: it can't be had. Nothing is then run without one.
    """
    if name is not None and name not in _SANDBOXES:
        raise SandboxError(f"there is no sandbox {name!r}; there are {', '.join(_SANDBOXES)}")
    problems = []
    for one in [name] if name else [one for one in _SANDBOXES if one != "none"]:
        sandbox = _SANDBOXES[one](readable, python=python)
        problem = sandbox.problem()
        if problem is None:
            return sandbox
        problems.append(f"{one}: {problem}{_help(one)}")
    raise SandboxError(f"no sandbox works here, so nothing is run. {'; '.join(problems)}")


def probe() -> list[Probe]:
    """Each sandbox, the best first."""
    found = []
    for name, kind in _SANDBOXES.items():
        problem = kind().problem()
        works = problem is None
        found.append(
            Probe(name=name, works=works, detail=problem or _WHAT[name], remedy="" if works else _remedy(name))
        )
    return found


def _help(name: str) -> str:
    remedy = _remedy(name)
    return f" (try `{remedy}`)" if remedy else ""


def _remedy(name: str) -> str:
    if name != "bubblewrap":
        return ""
    if not Bubblewrap.program():
        return "apt-get install bubblewrap"
    for setting, bad, good in _OBSTACLES:
        path = Path("/proc/sys", *setting.split("."))
        if path.exists() and int(path.read_text()) == bad:
            return f"sudo sysctl -w {setting}={good}"
    return ""
