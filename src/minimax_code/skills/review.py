"""Reviews files: the facts of analysers, and what a model finds beside them, as far as a second look bears it out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from minimax_code.errors import InputError
from minimax_code.model import Message, Model, Usage
from minimax_code.skills.answer import fenced
from minimax_code.skills.effort import Effort
from minimax_code.skills.explain import facts_in_words
from minimax_code.skills.judge import prefer_of
from minimax_code.skills.prompt import prompt_of
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.findings import Findings, Issue, Severity, in_order

MAX_FINDINGS = 8
_BYTES_A_TOKEN = 3
_SHARE = 0.5  # of a window, for a file and the standards
_AROUND = 12  # lines of code that a second look gets on each side
_NEAR = (200, 100, 50, 25, 10)  # lines on each side of a change, of a file too long to be read whole
_FINDING = re.compile(
    r"^[\s*-]*`?(?P<file>[\w./-]+\.\w+)`?:(?P<line>\d+):?\s*\[?(?P<severity>high|medium|low)\]?:?\s+"
    r"(?P<ticks>`+)(?P<quote>.+?)(?P=ticks)[\s:-]*(?P<message>\S.*)$",
    re.MULTILINE | re.IGNORECASE,
)
_BROKEN = re.compile(r"`?(?P<standard>[\w./-]+\.\w+)`?:?\s+\"(?P<rule>.+?)\"[\s:-]*(?P<how>\S.*)")
_FEWEST_WORDS = 3  # of a rule: fewer stand in any text
_IS_WRONG = ("this is a mistake: the code does something wrong here", "this is no mistake: the code is right here")
_BREAKS = ("this breaks the rule: the line is of what it forbids", "this keeps to the rule, or the rule isn't about it")
STANDARD = "standard:"
"""What the rule of an issue begins with that breaks a project's own standard; its file's name follows."""


@dataclass(frozen=True, kw_only=True)
class Review:
    """What was found.

    Attributes:
        findings: of analysers, and the model's issues that were borne out, whose rule is "model", or "standard:" and
            the name of the standard that they break.
        notes: files that no model has read and why, and findings of the model that were left out.
        read: the files that the model has read.
    """

    findings: Findings
    notes: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)


async def review(
    model: Model,
    files: Sequence[CodeFile],
    facts: Findings,
    *,
    standards: Sequence[CodeFile] = (),
    effort: Effort | None = None,
    changed: Mapping[str, Set[int]] = {},
) -> Review:
    """A model's findings beside those of analysers.

    A finding has to quote its line, and counts only if the model, asked about it alone in both orders, stands by it.
    A model that a calibration has found not to judge isn't asked at all: what it says would be noise.

    Args:
        standards: texts with rules of the project's own. Who says that one is broken has to quote it, too.
        changed: lines by file: what is read of a file that doesn't fit into the model's window is around them.

    Raises:
        InputError: the standards leave no room for code.
        ModelError: there is no answer.
    """
    effort = effort or Effort()
    if not effort.known.judges:
        return Review(findings=facts, notes=("no model has read the code: by its calibration it can't judge any",))
    room = int((await model.abilities()).context_tokens * _SHARE * _BYTES_A_TOKEN)
    rules = sum(len(text.content.encode(errors="replace")) for text in standards)
    if rules > room / 2:
        names = ", ".join(text.path for text in standards)
        raise InputError("standards", f"{names}: {rules:,} bytes don't fit into the model's window; {room // 2:,} do")
    room -= rules
    read: list[CodeFile] = []
    notes: list[str] = []
    for file in files:
        part = _part(file, changed.get(file.path, set()), room)
        if part is None:
            notes.append(f"{file.path} was not read by the model: it doesn't fit into its window")
        elif part is not file:
            notes.append(f"of {file.path} the model has read what is near the change: the rest doesn't fit")
        read += [part] if part else []
    looks = await asyncio.gather(*(_look(model, file, facts, standards, effort) for file in read))
    found = [one for look in looks for one in look.found]
    usage = sum((look.usage for look in looks), Usage())
    unquoted = sum(look.num_unquoted for look in looks)
    sources = {file.path: file for file in read}
    seconds = await asyncio.gather(*(_stands(model, one, sources[one.issue.file]) for one in found))
    kept = [one.issue for one, (stands, _) in zip(found, seconds, strict=True) if stands]
    usage = sum((cost for _, cost in seconds), usage)
    order: dict[Severity, int] = {"high": 0, "medium": 1, "low": 2}
    kept.sort(key=lambda issue: order[issue.severity])
    if unquoted:
        what = "the code, or not the rule" if standards else "the code"
        notes.append(f"{unquoted} findings of the model were left out: they don't quote {what}")
    if len(found) > len(kept):
        notes.append(f"{len(found) - len(kept)} were left out: the model doesn't stand by them")
    if len(kept) > MAX_FINDINGS:
        notes.append(f"{len(kept) - MAX_FINDINGS} less severe ones were left out")
    issues = in_order([*facts.issues, *kept[:MAX_FINDINGS]])
    paths = tuple(file.path for file in read)
    return Review(findings=replace(facts, issues=issues), notes=tuple(notes), read=paths, usage=usage)


def _part(file: CodeFile, lines: Set[int], room: int) -> CodeFile | None:
    """The file, or as much around these lines as there is room for; the others are empty, so that numbers stay."""
    if len(file.content.encode(errors="replace")) <= room:
        return file
    whole = file.content.splitlines()
    for far in _NEAR if lines else ():
        near = {number for line in lines for number in range(line - far, line + far + 1)}
        content = "\n".join(text if number in near else "" for number, text in enumerate(whole, start=1))
        if len(content.encode(errors="replace")) <= room:
            return CodeFile(file.path, content)
    return None


@dataclass(frozen=True, kw_only=True)
class _Found:
    """An issue, the line that it quotes, and the passage with the rule that it breaks; "" where it is a mistake."""

    issue: Issue
    quote: str
    rule: str


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What a model said of a file, and how often it quoted none of it."""

    found: list[_Found]
    num_unquoted: int
    usage: Usage


async def _look(model: Model, file: CodeFile, facts: Findings, standards: Sequence[CodeFile], effort: Effort) -> _Look:
    known = replace(facts, issues=tuple(issue for issue in facts.issues if issue.file == file.path))
    parts = [prompt_of("review", facts=facts_in_words(known) or "none"), fenced(file)]
    if standards:
        parts.insert(1, prompt_of("standards", standards="\n\n".join(map(fenced, standards))))
    reply = await model.reply(effort.request([Message(role="user", content="\n\n".join(parts))]))
    found: list[_Found] = []
    num_unquoted = 0
    lines = file.content.splitlines()
    taken = {issue.line for issue in known.issues}
    for match in _FINDING.finditer(reply.content):
        line = _line_of(match["quote"], lines, int(match["line"]))
        claim = _claim_of(match["message"].strip(), standards)
        if line is None or claim is None or not file.path.endswith(match["file"]):
            num_unquoted += 1
        elif line not in taken:
            taken.add(line)
            severity: Severity = match["severity"].lower()  # type: ignore[assignment]
            rule, message, passage = claim
            issue = Issue(severity=severity, file=file.path, line=line, message=message, suggestion=None, rule=rule)
            found.append(_Found(issue=issue, quote=lines[line - 1].strip(), rule=passage))
    return _Look(found=found, num_unquoted=num_unquoted, usage=reply.usage)


def _claim_of(message: str, standards: Sequence[CodeFile]) -> tuple[str, str, str] | None:
    """The rule of an issue, its message and the passage that it quotes; None where that stands in no standard."""
    broken = _BROKEN.fullmatch(message)
    standard = broken and next((text for text in standards if text.path.endswith(broken["standard"])), None)
    if not broken or not standard:
        return "model", message, ""
    quote = " ".join(broken["rule"].split())
    passages = re.split(r"\n\s*\n", standard.content)
    passage = next((text for text in passages if quote in " ".join(text.split())), None)
    if passage is None or len(quote.split()) < _FEWEST_WORDS:
        return None
    return f"{STANDARD}{standard.path}", f'{broken["how"]} ({standard.path}: "{quote}")', passage.strip()


def _line_of(quote: str, lines: Sequence[str], near: int) -> int | None:
    """The line that a quote is of, the nearest to where it is said to be."""
    wanted = " ".join(quote.split())
    places = [i for i, line in enumerate(lines, start=1) if wanted and wanted in " ".join(line.split())]
    return min(places, key=lambda place: abs(place - near), default=None)


async def _stands(model: Model, found: _Found, file: CodeFile) -> tuple[bool, Usage]:
    """Whether the model still says so, asked about this finding alone."""
    issue = found.issue
    lines = file.content.splitlines()
    around = lines[max(0, issue.line - 1 - _AROUND) : issue.line + _AROUND]
    code = fenced(CodeFile(file.path, "\n".join(around)))
    prompt, claims = ("validate_rule", _BREAKS) if found.rule else ("validate", _IS_WRONG)
    values = {"place": f"{issue.file}:{issue.line}", "message": issue.message, "quote": found.quote, "code": code}
    preferred, usage = await prefer_of(model, prompt, claims, rule=found.rule, **values)
    return preferred == "a", usage
