"""Which Python runs a project's code: that of its own environment, where it has one."""

from __future__ import annotations

import sys
from pathlib import Path

from minimax_code.errors import InputError

_ENVIRONMENTS = (".venv", "venv")


def python_of(folder: Path | None, named: str | None = None) -> str:
    """The interpreter for the code of a folder: the named one, that of the folder's environment, or this one.

    Raises:
        InputError: the named one is none.
    """
    if named is not None:
        python = Path(named).absolute()
        if not shown_for(str(python)):
            raise InputError("python", f"{named} is no interpreter; name one as in .venv/bin/python")
        return str(python)
    own = (folder.absolute() / name / "bin" / "python" for name in _ENVIRONMENTS) if folder else ()
    # A folder may come from anybody, so one that only looks like an environment isn't taken.
    return next((str(python) for python in own if (_home(python) / "pyvenv.cfg").is_file() and shown_for(str(python))),
                sys.executable)  # fmt: skip


def shown_for(python: str) -> tuple[Path, ...]:
    """What a sandbox has to show for an interpreter to find itself and its packages; empty where it is none.

    Only folders that have a Python in them: a link that a repository brings shows nobody's home.
    """
    program = Path(python).resolve()
    base = _home(program)
    is_python = program.is_file() and program.parent.name == "bin" and program.name.startswith(("python", "pypy"))
    if not is_python or base == Path("/") or not any(base.glob("lib/p*3*/os.py")):
        return ()
    home = _home(Path(python))
    return (home, base) if (home / "pyvenv.cfg").is_file() else (base,)


def _home(python: Path) -> Path:
    return python.parent.parent
