"""What tests of tasks share: a user's folder, and tasks that are executed with scripted models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from minimax_code.events import Event, Log, MemoryLog, Recorded
from minimax_code.model import Message, Request, ToolCall
from minimax_code.testing import Line, ScriptedModel
from minimax_code.work.execute import execute
from minimax_code.work.result import TaskResult
from minimax_code.work.task import Task
from minimax_code.workbench import testrun

PLAN, DONE, PASS = "1. Mend total()", "It adds them up.", "VERDICT: PASS"


@pytest.fixture(autouse=True)
def _no_plugins_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pytest: those in our own environment take seconds to start, and the tests in here need none."""
    monkeypatch.setitem(testrun._ENV, "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # type: ignore[index]


class Shop:
    """A user's folder with a function that is wrong, and where its tasks are worked on."""

    def __init__(self, root: Path) -> None:
        self.folder, self.place = root / "shop", root / "place"
        self.folder.mkdir()
        self.lay({"cart.py": "def total(prices):\n    return 0\n"})
        self.lay({"check.py": "from cart import total\n\nassert total([1, 2]) == 3, total([1, 2])\n"})

    def lay(self, files: dict[str, str]) -> None:
        """Puts files there."""
        for path, text in files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text)

    def lay_tests(self) -> None:
        """A test that shows what is wrong, in place of the script."""
        (self.folder / "check.py").unlink()
        test = "from cart import total\n\n\ndef test_total():\n    assert total([1, 2]) == 3\n"
        self.lay({"tests/test_cart.py": test})

    def run(self, task: Task, script: Iterable[Line], *, log: Log | None = None, **options: Any) -> TaskResult:
        """What comes of a task, with a model that says what the script says."""
        self.model, options = ScriptedModel(script), {"strategy": "agent", **options}
        return asyncio.run(
            execute(task, model=self.model, folder=self.folder, place=self.place, log=log or MemoryLog(), **options)
        )


class DiedError(Exception):
    """The end of a process, as far as a log can tell."""


class Breaking(MemoryLog):
    """A log whose process ends after so many events."""

    def __init__(self, log: Log, after: int) -> None:
        super().__init__()
        self._recorded = list(log.recorded)
        self.after = after

    async def append(self, event: Event) -> Recorded:
        if len(self._recorded) >= self.after:
            raise DiedError
        return await super().append(event)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def task(**fields: Any) -> Task:
    """The task of most tests."""
    return Task(**{"description": "total() adds up the prices", "checks": ["python check.py"], **fields})


def write(path: str, content: str) -> ToolCall:
    """A call that writes a file."""
    return call("write", path=path, content=content)


def call(name: str, **arguments: Any) -> ToolCall:
    """A call of a tool."""
    text = json.dumps(arguments)
    return ToolCall(id=f"{name}-{abs(hash(text))}", name=name, arguments=text)


def fix(body: str = "sum(prices)") -> ToolCall:
    """A call that mends the function."""
    return write("cart.py", f"def total(prices):\n    return {body}\n")


def last(request: Request) -> Message:
    """What the model was told last."""
    return request.messages[-1]
