"""Workbenches for tests: over an empty folder, or over some files."""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
import venv
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.sandbox import find_sandbox
from minimax_code.workbench.workspace import Workspace

MakeBench = Callable[[Mapping[str, str]], Workbench]

_PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "py", "pygments", "coverage")


@cache
def lean_python() -> Path:
    """An environment with pytest alone: the plugins of ours take a second to load, each time."""
    folder = Path(tempfile.mkdtemp(prefix="lean-python-"))
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        place = Path(spec.origin)
        place = place.parent if place.name == "__init__.py" else place
        for part in (place, *place.parent.glob("pluggy-*.dist-info")):  # it asks for its own version
            if not (packages / part.name).exists():
                (packages / part.name).symlink_to(part)
    return folder


def bench_over(files: Mapping[str, str], folder: Path) -> Workbench:
    """A workbench whose workspace has these files; it lies in `folder`, which others may use too."""
    own = Path(tempfile.mkdtemp(dir=folder))
    source = own / "source"
    for path, content in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(content)
    workspace = asyncio.run(Workspace.create(source if files else None, own / "workspace"))
    python = lean_python()
    return Workbench(workspace, find_sandbox(readable=[python]), python=str(python / "bin" / "python"))
