"""The errors that a user can cause. The command line prints them as one sentence; the server maps them to 4xx.

    OpenM3Error
    ├── ModelError      a model file, folder or configuration that can't be used
    ├── DownloadError   a model that can't be fetched
    ├── StoreError      a context or a checkpoint on disk that can't be read or written
    ├── DatabaseError   keys and books that can't be reached
    ├── TrainingError   a training run that can't go on
    └── InputError      a request, an option or a context that can't be served; `field` names it
        └── WindowError     a prompt that is longer than the window

Wrong tensors given to a kernel raise `ValueError`; a broken invariant of our own is an `AssertionError`.
"""

from __future__ import annotations

from typing import Self


class OpenM3Error(Exception):
    """Base of every error that says what the user can do about it."""


class ModelError(OpenM3Error):
    """A model file, folder or configuration can't be used; the message names the file and the tensor or key."""


class DownloadError(OpenM3Error):
    """A model could not be fetched; nothing half-written is left in the cache."""


class StoreError(OpenM3Error):
    """A context or a checkpoint can't be read or written; the message names it, and what was whole before still is."""


class TrainingError(OpenM3Error):
    """A training run can't go on; the message names the step, the data and the last good checkpoint."""


class DatabaseError(OpenM3Error):
    """The database of keys and books can't be used; the message names it, without its password."""


class InputError(OpenM3Error):
    """What the user asked for can't be served.

    Args:
        field: the argument, option or request field that is wrong (`"max_tokens"`, `"--context"`).
        message: what is wrong and what would be right, without the field's name at its front.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.field, self.message)  # so that it comes through from another process


class WindowError(InputError):
    """A prompt and the least of an answer are more than the model's window."""
