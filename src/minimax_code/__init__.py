"""Agents that work on copies of repositories and prove what they claim. Importing it does nothing."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minimax_code.client import MiniMaxCode as MiniMaxCode
    from minimax_code.jobs.update import Update as Update
    from minimax_code.permissions import Answer as Answer
    from minimax_code.permissions import Question as Question
    from minimax_code.work.agent import Agent as Agent
    from minimax_code.work.result import TaskResult as TaskResult
    from minimax_code.work.task import Task as Task

_WHERE = {
    "MiniMaxCode": "client", "Answer": "permissions", "Question": "permissions", "Agent": "work.agent",
    "Task": "work.task", "TaskResult": "work.result", "Update": "jobs.update",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """What the package offers is imported when it is first asked for: servers use parts of it, and no client."""
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"minimax_code.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'minimax_code' has no attribute {name!r}")
