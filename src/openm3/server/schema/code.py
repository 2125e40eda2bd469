"""`POST /v1/code/generate` and `POST /v1/code/review`."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from minimax_code.skills.solution import Verdict
from minimax_code.workbench.analysers import ALIASES, STANDARDS
from minimax_code.workbench.files import EXTENSIONS, MAX_FILES, CodeFile
from minimax_code.workbench.findings import Severity
from minimax_code.workbench.receipt import Receipt
from openm3.errors import InputError
from openm3.server.schema.request import RequestModel
from openm3.server.schema.response import FinishReason, Usage

_MAX_CASES = 200


def _standard(value: Any) -> Any:
    name = ALIASES.get(value, value) if isinstance(value, str) else None
    if name not in STANDARDS:
        raise PydanticCustomError("unknown_standard", "must be one of {known}", {"known": ", ".join(STANDARDS)})
    return name


Standard = Annotated[str, BeforeValidator(_standard)]
Short = Annotated[str, Field(min_length=1, max_length=200)]


class SourceFile(RequestModel):
    """A file; `path` is relative, with slashes."""

    path: str
    content: str

    def file(self) -> CodeFile:
        """As analysers know it."""
        return CodeFile(self.path, self.content)


class CodeRequest(RequestModel):
    """What both endpoints take."""

    model: str = "default"
    language: Short | None = None
    files: Annotated[list[SourceFile], Field(max_length=MAX_FILES)] | None = None
    standards: Annotated[list[Standard], Field(max_length=20)] | None = None

    def code_files(self) -> list[CodeFile]:
        """The files."""
        return [file.file() for file in self.files or ()]


Task = Literal["generate", "tests", "document", "refactor", "fix"]


class GenerateRequest(CodeRequest):
    """Code to write: what `prompt` asks for, in up to `n` answers, of which that is taken which does best when run.

    `files` are what there is already, and `tests` what it has to pass. For other tasks than "generate" `prompt` says
    what is wrong ("fix"), what to change ("refactor"), or what is wished for besides.
    """

    task: Task = "generate"
    prompt: Annotated[str, Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=16)] = 1
    tests: Annotated[list[SourceFile], Field(max_length=MAX_FILES)] | None = None
    coverage_target: Annotated[float, Field(ge=0, le=100)] = 90.0
    framework: Short | None = None
    style: Short | None = None
    include_tests: bool = False
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None

    @model_validator(mode="after")
    def _check_together(self) -> GenerateRequest:
        if self.stream and (self.n > 1 or self.task != "generate"):
            raise InputError("stream", "is for a single answer of the task generate; give n 1 or no stream")
        if self.tests and self.task not in ("generate", "fix"):
            raise InputError("tests", "are for the tasks generate and fix")
        return self

    def test_files(self) -> list[CodeFile]:
        """The tests."""
        return [file.file() for file in self.tests or ()]


class ReviewRequest(CodeRequest):
    """Code to review: `files`, or one file's `code` in `language`, Python unless it is said."""

    code: str | None = None
    with_model: bool = False

    @model_validator(mode="after")
    def _check_together(self) -> ReviewRequest:
        if (self.code is None) == (self.files is None):
            raise InputError("code", "give either code, the text of one file, or files")
        if self.language is not None and self.language.lower() not in EXTENSIONS:
            raise InputError("language", f"must be one of {', '.join(EXTENSIONS)}")
        if self.files == []:
            raise InputError("files", "is empty")
        return self

    def code_files(self) -> list[CodeFile]:
        if self.code is None:
            return super().code_files()
        return [CodeFile(f"main.{EXTENSIONS[(self.language or 'python').lower()]}", self.code)]


class CodeIssue(BaseModel):
    """Something that is wrong with a line; `rule` is the analyser's name and its rule's.

    "high": it fails or can be attacked; "medium": likely a mistake; "low": style.
    """

    severity: Severity
    file: str
    line: int
    message: str
    suggestion: str | None
    rule: str


class CodeCase(BaseModel):
    """A test, or a call of a function, and what became of it."""

    name: str
    outcome: Literal["passed", "failed", "error", "skipped"]
    message: str


class CodeReceipt(BaseModel):
    """What was run, how it ended (null: it wasn't run, or was ended), and what that says something about.

    `sandbox` is in which, or "" where nothing of the files was run; `cases` are at most 200.
    """

    command: str
    exit_code: int | None
    checked: str
    sandbox: str
    cases: list[CodeCase]

    @classmethod
    def of(cls, receipt: Receipt) -> CodeReceipt:
        """As it is answered: the command as a shell would take it."""
        return cls(
            command=shlex.join(receipt.command),
            exit_code=receipt.exit_code,
            checked=receipt.checked,
            sandbox=receipt.sandbox,
            cases=[CodeCase(**case.model_dump()) for case in receipt.cases[:_MAX_CASES]],
        )


class Checked(BaseModel):
    """What is known of files. `issues` are at most 1,000 of `num_issues`.

    `quality_score` is 100 less 100 points a line that isn't blank, a high issue being 10 points, a medium one 3, a low
    one 1; fewer than 20 lines count as 20. It is 0 where a file doesn't parse, and null where nothing was read.
    """

    id: str
    created: int
    model: str | None
    issues: list[CodeIssue]
    num_issues: int
    quality_score: float | None
    receipts: list[CodeReceipt]
    usage: Usage


class CodeReview(Checked):
    """Where no model has read the code `model` is null: the findings are the analysers' alone; `notice` says why."""

    object: Literal["code.review"] = "code.review"
    files: list[str]
    notice: str


class WrittenFile(BaseModel):
    """A file of an answer; `complete` is false where the answer ended within it."""

    path: str
    language: str
    content: str
    complete: bool


class CodeGeneration(Checked):
    """`content` is the chosen answer as it is, `files` what was read out of it and checked; a stream's last event.

    `verdict`: "verified", checks pass that the model hasn't written; "plausible", it runs, and passes what the model
    wrote itself or agrees with other answers; "failed"; "unverified", nothing was run. `sandbox` is null where there is
    none, and then nothing is ever verified.
    """

    object: Literal["code.generation"] = "code.generation"
    content: str
    files: list[WrittenFile]
    finish_reason: FinishReason
    verdict: Verdict
    notes: list[str]
    num_candidates: int
    chosen: int
    sandbox: str | None


class CodeChunk(BaseModel):
    """In a stream, what is added to the answer."""

    id: str
    object: Literal["code.generation.chunk"] = "code.generation.chunk"
    content: str
