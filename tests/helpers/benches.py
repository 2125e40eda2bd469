"""Workbenches for tests: over an empty folder, or over some files."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.sandbox import find_sandbox
from minimax_code.workbench.workspace import Workspace

MakeBench = Callable[[Mapping[str, str]], Workbench]


def bench_over(files: Mapping[str, str], folder: Path) -> Workbench:
    """A workbench whose workspace has these files; it lies in `folder`, which others may use too."""
    own = Path(tempfile.mkdtemp(dir=folder))
    source = own / "source"
    for path, content in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(content)
    workspace = asyncio.run(Workspace.create(source if files else None, own / "workspace"))
    return Workbench(workspace, find_sandbox())
