"""What the methods of the client return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from openai.types import Completion


@dataclass(frozen=True, kw_only=True)
class _Read:
    """Read from JSON: fields that a newer server adds are left out, those that an older one lacks are the default.

    A field that is null counts as lacking.
    """

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """From an object of a response.

        Raises:
            TypeError: a field without a default is missing.
        """
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known and value is not None})


@dataclass(frozen=True, kw_only=True)
class Usage(_Read):
    """Tokens that a call has cost."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class CodeFile(_Read):
    """A file that was written; `path` is relative, with forward slashes.

    `complete` is False where the answer ended within it.
    """

    path: str
    content: str
    language: str = ""
    complete: bool = True


@dataclass(frozen=True, kw_only=True)
class Receipt(_Read):
    """What was run, how it ended, and what that says something about. What has no receipt was not checked.

    `exit_code` is None where the command wasn't run to its end. `sandbox` is in which it ran, "" where nothing of the
    files was run. `cases` are tests or calls of functions: objects with `name`, `outcome` and `message`.
    """

    command: str = ""
    exit_code: int | None = None
    checked: str = ""
    sandbox: str = ""
    cases: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Issue(_Read):
    """Something a review found.

    `severity` is "high" (it fails or can be attacked), "medium" (likely a mistake) or "low" (style).
    """

    severity: str
    message: str
    file: str = ""
    line: int = 0
    suggestion: str = ""
    rule: str = ""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of an answer while it arrives; `content` is its new text."""

    content: str


@dataclass(frozen=True, kw_only=True)
class Text:
    """An answer in words; `str()` of it is the answer.

    Attributes:
        finish_reason: "stop", or "length" where `max_tokens` or the window cut it.
        num_parts: how many parts a long input was read in; 1 where it fitted.
    """

    content: str
    finish_reason: str = "stop"
    usage: Usage = Usage()
    num_parts: int = 1

    def __str__(self) -> str:
        return self.content


@dataclass(frozen=True, kw_only=True)
class Code(Text):
    """An answer with files.

    Attributes:
        files: the files of the answer, in its order.
        receipts: what was checked or run; empty means that nothing was, neither by the server nor by this client.
        verdict: "verified", checks pass that the model hasn't written; "plausible", it runs and passes what it has
            written itself; "failed"; "unverified", nothing was run.
        notes: what the server says of it: candidates and their fate, tests that were left out and why.
    """

    files: tuple[CodeFile, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    verdict: str = "unverified"
    notes: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """The contents of the files, one after the other."""
        return "\n\n".join(file.content for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a review found.

    Attributes:
        quality_score: 0 to 100, by the server's documented formula over the findings; None where nothing was read.
        notice: what the server says of how it was found.
    """

    issues: tuple[Issue, ...]
    quality_score: float | None
    notice: str = ""
    receipts: tuple[Receipt, ...] = ()
    usage: Usage = Usage()


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """Tokens of a text; `is_exact` is False where the server can't count and bytes / 3 stands for it."""

    tokens: int
    is_exact: bool


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A task of a batch that failed; asking it for choices raises its error."""

    task: Mapping[str, Any]
    error: Exception

    @property
    def choices(self) -> Any:
        """Raises the error, so that no failure is taken for an answer."""
        raise self.error


BatchResult = Completion | Failure
