"""The errors that a user can cause. The command line prints them as one sentence.

CodeError
├── InputError       a task, an option or a configuration that can't be used; `field` names it
├── SandboxError     no sandbox can be had, or it failed to start
├── WorkspaceError   a folder, a repository or a patch that can't be used
├── ModelError       a model that can't be reached, or whose replies can't be used
├── BudgetError      a limit that is used up; `limit` names it
└── StoreError       a store of jobs that can't be read or written
    └── LeaseError   a job that another worker holds
"""

from __future__ import annotations

from typing import Self


class CodeError(Exception):
    """Base of every error that says what the user can do about it."""


class InputError(CodeError):
    """What the user asked for can't be done.

    Args:
        field: the argument, option or key that is wrong (`"constraints.budget_limit"`, `"--base"`).
        message: what is wrong and what would be right, without the field's name at its front.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.field, self.message)  # so that it comes through from another process


class SandboxError(CodeError):
    """No sandbox can be had, so nothing is run; the message has the one command that mends it."""


class WorkspaceError(CodeError):
    """A folder, repository or patch can't be used; what was there is unchanged."""


class ModelError(CodeError):
    """A model can't be reached, or what it replies can't be used."""


class BudgetError(CodeError):
    """A limit is used up.

    Args:
        limit: which one: "tokens", "calls", "seconds" or "money".
        message: how much of it there was, and how to give more.
    """

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.limit, str(self))


class StoreError(CodeError):
    """A store of jobs can't be read or written; what it had recorded before is still whole."""


class LeaseError(StoreError):
    """Another worker holds the job, so that nothing may be written of it here."""
