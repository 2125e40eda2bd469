"""Checkers of other languages than Python, where they are on the machine; in the sandbox, as some run build files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from minimax_code.workbench.files import read_inside
from minimax_code.workbench.findings import Issue, Severity
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.running import Limits
from minimax_code.workbench.sandbox import Sandbox
from minimax_code.workbench.syntax import first_error, is_installed, language_of

_LIMITS = Limits(seconds=120)
_LINE = re.compile(
    r"^(?:vet: )?(?:\./)?(?P<file>[^\s:][^:\n]*):(?P<line>\d+)(?::\d+)?: "
    r"(?:(?P<severity>fatal error|error|warning|note|info|style)(?:\[(?P<code>\w+)\])?: )?(?P<message>.*?)"
    r"(?: \[(?P<rule>[\w=+-]+)\])?$",
    re.MULTILINE,
)
_SEVERITIES: dict[str, Severity] = {"error": "high", "fatal error": "high", "warning": "medium"}
_ABSENT = ("No such file or directory", "Tips depend on target shell")  # of the machine, not of the change
_NOT_FOUND = 127


@dataclass(frozen=True, kw_only=True)
class Checker:
    """A program that says what is wrong, in lines of file:line: message.

    Attributes:
        endings: of the files that it reads.
        command: is followed by the files, unless `project` says that it finds them by itself.
        project: the file without which there is nothing that it could check; "" where it needs none.
        usual: how much a line weighs that doesn't say.
    """

    endings: tuple[str, ...]
    command: tuple[str, ...]
    project: str = ""
    usual: Severity = "low"


CHECKERS = (
    Checker(endings=(".sh", ".bash"), command=("shellcheck", "--format=gcc")),
    Checker(endings=(".c",), command=("gcc", "-fsyntax-only", "-Wall", "-I.", "-Iinclude")),
    Checker(endings=(".cc", ".cpp", ".cxx"), command=("g++", "-fsyntax-only", "-Wall", "-I.", "-Iinclude")),
    Checker(endings=(".go",), command=("go", "vet", "./..."), project="go.mod", usual="medium"),
    Checker(
        endings=(".rs",),
        command=("cargo", "check", "--offline", "--message-format=short", "--quiet", "--target-dir=/tmp/target"),
        project="Cargo.toml",
    ),
)


def syntax_issues(folder: Path, paths: Sequence[str]) -> tuple[list[Issue], Receipt | None]:
    """Whether files of other languages than Python parse; no receipt where there are none."""
    known = [path for path in paths if language_of(path) not in (None, "python", "cpp")]  # macros aren't C
    if not known:
        return [], None
    command = ("tree-sitter", "parse", *known)
    if not is_installed():
        return [], Receipt(command=command, checked="nothing: tree-sitter is not installed")
    issues = []
    for path in known:
        line = first_error(read_inside(folder, path), language_of(path) or "")
        if line is not None:
            issues.append(
                Issue(severity="high", file=path, line=line, message=f"is no {language_of(path)} from here on",
                      suggestion=None, rule="parse:syntax-error")
            )  # fmt: skip
    checked = f"whether {len(known)} files parse; nothing of them was run"
    return issues, Receipt(command=command, exit_code=int(bool(issues)), checked=checked)


async def check(sandbox: Sandbox, folder: Path, paths: Sequence[str]) -> tuple[list[Issue], list[Receipt]]:
    """What the checkers of the languages of these files say about them."""
    issues: list[Issue] = []
    receipts: list[Receipt] = []
    for checker in CHECKERS:
        own = [path for path in paths if PurePosixPath(path).suffix in checker.endings]
        if not own or (checker.project and not (folder / checker.project).is_file()):
            continue
        words = () if checker.project else tuple(f"./{path}" for path in own)
        env = {"GOCACHE": "/tmp/go-cache", "GOPROXY": "off", "GOFLAGS": "-mod=mod"}
        ran = await sandbox.run([*checker.command, *words], folder=folder, writable=False, limits=_LIMITS, env=env)
        found = [issue for issue in _issues(ran.output, checker) if issue.file in own]
        if ran.exit_code == _NOT_FOUND or "execvp" in ran.output[:200]:
            checked = f"nothing: {checker.command[0]} is not installed"
        elif ran.exit_code is None:
            checked = f"nothing: it was ended ({ran.stopped})"
        else:
            issues += found
            checked = f"{len(own)} files, {len(found)} issues"
        receipts.append(
            Receipt(command=(*checker.command, *words), exit_code=ran.exit_code, seconds=ran.seconds,
                    sandbox=ran.sandbox, checked=checked)
        )  # fmt: skip
    return issues, receipts


def _issues(output: str, checker: Checker) -> Iterator[Issue]:
    for match in _LINE.finditer(output):
        if any(absent in match["message"] for absent in _ABSENT):
            continue
        yield Issue(
            severity=_SEVERITIES.get(match["severity"] or "", "low") if match["severity"] else checker.usual,
            file=match["file"],
            line=int(match["line"]),
            message=match["message"],
            suggestion=None,
            rule=f"{checker.command[0]}:{match['rule'] or match['code'] or 'error'}",
        )
