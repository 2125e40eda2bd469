"""A review as SARIF 2.1.0, so that GitHub's code scanning and editors show it: rules, fingerprints that stay, fixes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from minimax_code.review.change import Hunk, read_change
from minimax_code.review.issue import ReviewIssue
from minimax_code.review.result import Patch, Review
from minimax_code.workbench.findings import Severity

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_MOST_RESULTS = 5_000  # GitHub shows no more, and refuses files with many more
_LEVELS: dict[Severity, str] = {"high": "error", "medium": "warning", "low": "note"}
_PROBLEMS: dict[Severity, str] = {"high": "error", "medium": "warning", "low": "recommendation"}
_SECURITY: dict[Severity, str] = {"high": "8.0", "medium": "5.5", "low": "2.0"}  # as CVSS counts
_PRECISION = {"test": "very-high", "tool": "high", "model": "medium"}
_OF_SECURITY = ("bandit:", "ruff:S")
_SAYS = {
    "test": "What tests of the project show",
    "parse": "The file can't be parsed",
    "model": "A model's finding",
    "standard": "A rule of the project's own",
}


def sarif(review: Review, version: str) -> str:
    """The issues as SARIF 2.1.0; fixes are the analysers' own, and those of `auto_fix`."""
    issues = review.issues[:_MOST_RESULTS]
    firsts = {issue.rule: issue for issue in reversed(issues)}
    rules = sorted(firsts)
    told = [*review.notes, *(f"`{path}` {why}" for path, why in review.unread.items())]
    if left := len(review.issues) - len(issues):
        told.append(f"{left} more issues, which weigh less, are not in this file")
    driver = {"name": "minimax-code", "version": version, "rules": [_rule(firsts[name]) for name in rules]}
    mended = dict(_by_patches(review.auto_fixes))
    seen: Counter[str] = Counter()
    results = []
    for issue in issues:
        seen[issue.fingerprint] += 1
        fixes = [_fix(issue), mended.get(issue.fingerprint)]
        results.append(_result(issue, rules.index(issue.rule), seen[issue.fingerprint], [fix for fix in fixes if fix]))
    notes = [{"level": "note", "message": {"text": text}} for text in told]
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": "minimax-code/"},
        "columnKind": "unicodeCodePoints",
        "results": results,
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _result(issue: ReviewIssue, rule: int, number: int, fixes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One issue; the number tells those apart that are alike."""
    place = {"artifactLocation": _location(issue.file), "region": {"startLine": max(issue.line, 1)}}
    return {
        "ruleId": issue.rule,
        "ruleIndex": rule,
        "level": _LEVELS[issue.severity],
        "message": {"text": " ".join(filter(None, [issue.message, issue.suggestion]))},
        "locations": [{"physicalLocation": place}],
        # The only one that GitHub reads; by it an alert stays the same one on the next commit.
        "partialFingerprints": {"primaryLocationLineHash": f"{issue.fingerprint}:{number}"},
        "properties": {"evidence": issue.evidence},
        **({"fixes": list(fixes)} if fixes else {}),
    }


def _rule(first: ReviewIssue) -> dict[str, Any]:
    """What GitHub shows of a rule, and sorts alerts by."""
    tool, _, name = first.rule.partition(":")
    text = f"{_SAYS[tool]}: {name}" if tool in _SAYS else f"{tool}'s {name}"
    told: dict[str, Any] = {"problem.severity": _PROBLEMS[first.severity], "precision": _PRECISION[first.evidence]}
    if first.rule.startswith(_OF_SECURITY):
        told |= {"tags": ["security"], "security-severity": _SECURITY[first.severity]}
    return {
        "id": first.rule,
        "shortDescription": {"text": text},
        "fullDescription": {"text": f"{text}, where the base of the change has it not"},
        "help": {"text": f"As in: {first.message}"},
        "defaultConfiguration": {"level": _LEVELS[first.severity]},
        "properties": told,
    }


def _fix(issue: ReviewIssue) -> dict[str, Any] | None:
    """The analyser's own."""
    if issue.replacement is None:
        return None
    piece = _replacement(issue.line, issue.replacement.last_line, issue.replacement.lines)
    return _described(issue.suggestion or "The analyser's fix", {issue.file: [piece]})


def _by_patches(patches: Sequence[Patch]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fixes that were tried, by fingerprint, as far as they count lines as the head does: none before moved any."""
    moved: set[str] = set()
    for patch in patches:
        files = read_change("the head", "its fix", patch.patch).files
        if moved.isdisjoint(files):
            pieces = {path: list(map(_of_hunk, file.hunks)) for path, file in files.items()}
            fix = _described(f"{patch.title}; tried by checks", pieces)
            yield from ((one, fix) for one in patch.fingerprints)
        moved |= files.keys()


def _of_hunk(hunk: Hunk) -> dict[str, Any]:
    lines = [line.removesuffix("\n") for line in hunk.new_lines]
    first = hunk.old_start if hunk.old_lines else hunk.old_start + 1  # of none, git names the line before
    return _replacement(first, first + len(hunk.old_lines) - 1, lines)


def _described(text: str, pieces: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    changes = [{"artifactLocation": _location(path), "replacements": found} for path, found in pieces.items()]
    return {"description": {"text": text}, "artifactChanges": changes}


def _replacement(first: int, last: int, lines: Sequence[str]) -> dict[str, Any]:
    """Other lines in place of some, or of none."""
    region = {"startLine": first, "startColumn": 1, "endLine": last + 1, "endColumn": 1}
    text = "".join(f"{line}\n" for line in lines)
    return {"deletedRegion": region, **({"insertedContent": {"text": text}} if lines else {})}


def _location(path: str) -> dict[str, str]:
    return {"uri": quote(path, errors="replace"), "uriBaseId": "%SRCROOT%"}
