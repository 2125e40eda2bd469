"""SARIF by the rules of its schema, and by what GitHub's code scanning needs besides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from minimax_code.review.issue import Replacement, ReviewIssue
from minimax_code.review.result import Patch, Review
from minimax_code.review.sarif import sarif

SCHEMA = json.loads((Path(__file__).parents[2] / "helpers" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
OLD = "import os\nimport sys\n\n\ndef f(a: int) -> int:\n    return list(sorted(a))[0]\n"


def issue(rule: str, line: int, **given: Any) -> ReviewIssue:
    """A finding of an analyser."""
    return ReviewIssue(
        severity="medium",
        file="my code/ü.py",
        line=line,
        message=f"{rule} is wrong",
        rule=rule,
        evidence="tool",
        **given,
    )


def told(*issues: ReviewIssue, fixes: tuple[Patch, ...] = (), **given: Any) -> Any:
    """The run, which is valid by the schema."""
    review = Review(
        base="a" * 40, head="b" * 40, files=("my code/ü.py",), unread=given, issues=issues, auto_fixes=fixes
    )
    log = json.loads(sarif(review, "1.0"))
    Draft7Validator(SCHEMA).validate(log)
    [run] = log["runs"]
    return run


def applied(text: str, replacement: Any) -> str:
    """A text with a replacement made, as an editor does it."""
    lines, region = text.splitlines(keepends=True), replacement["deletedRegion"]
    assert (region["startColumn"], region["endColumn"]) == (1, 1)
    new = replacement.get("insertedContent", {"text": ""})["text"]
    return "".join([*lines[: region["startLine"] - 1], new, *lines[region["endLine"] - 1 :]])


def replacements(result: Any) -> list[Any]:
    [fix] = result["fixes"]
    [change] = fix["artifactChanges"]
    assert change["artifactLocation"] == result["locations"][0]["physicalLocation"]["artifactLocation"]
    found: list[Any] = change["replacements"]
    return found


def test_a_review_without_issues_is_valid_and_tells_what_wasnt_read() -> None:
    run = told(**{"a.svg": "is binary or a link"})
    assert run["results"] == []
    assert run["invocations"][0]["toolExecutionNotifications"] == [
        {"level": "note", "message": {"text": "`a.svg` is binary or a link"}}
    ]


def test_rules_say_what_github_sorts_alerts_by() -> None:
    run = told(issue("bandit:B301", 2), issue("ruff:F401", 1), issue("ruff:F401", 3))
    bandit, ruff = run["tool"]["driver"]["rules"]
    assert (bandit["id"], bandit["properties"]["tags"], bandit["properties"]["security-severity"]) == (
        "bandit:B301", ["security"], "5.5",
    )  # fmt: skip
    assert (ruff["id"], ruff["properties"]) == ("ruff:F401", {"problem.severity": "warning", "precision": "high"})
    assert all(rule["shortDescription"]["text"] and rule["help"]["text"] for rule in (bandit, ruff))
    assert [run["tool"]["driver"]["rules"][one["ruleIndex"]]["id"] for one in run["results"]] == [
        one["ruleId"] for one in run["results"]
    ]


def test_places_are_relative_and_fingerprints_stay_where_lines_move() -> None:
    first, moved = told(issue("ruff:F401", 1, text="import os")), told(issue("ruff:F401", 9, text="import os"))
    place = first["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": "my%20code/%C3%BC.py", "uriBaseId": "%SRCROOT%"}
    key = "primaryLocationLineHash"
    prints = [run["results"][0]["partialFingerprints"][key] for run in (first, moved)]
    assert prints[0] == prints[1]
    twice = told(issue("ruff:F401", 1, text="import os"), issue("ruff:F401", 9, text="import os"))
    assert len({one["partialFingerprints"][key] for one in twice["results"]}) == 2


def test_the_analysers_fix_is_one() -> None:
    run = told(
        issue("ruff:F401", 1, replacement=Replacement(last_line=1, lines=())),
        issue("ruff:C413", 6, replacement=Replacement(last_line=6, lines=("    return sorted(a)[0]",))),
        issue("ruff:E1", 3),
    )
    gone, other, none = run["results"]
    assert applied(OLD, *replacements(gone)) == OLD.removeprefix("import os\n")
    assert applied(OLD, *replacements(other)) == OLD.replace("list(sorted(a))", "sorted(a)")
    assert "fixes" not in none


def test_fixes_that_were_tried_are_some_as_long_as_they_count_lines_as_the_head_does() -> None:
    issues = (issue("ruff:F401", 1, text="import os"), issue("ruff:F401", 2, text="import sys"))
    head = 'diff --git "a/my code/\\303\\274.py" "b/my code/\\303\\274.py"\n'
    head += '--- "a/my code/\\303\\274.py"\n+++ "b/my code/\\303\\274.py"\n'
    hunks = ("@@ -1,3 +1,2 @@\n-import os\n import sys\n \n", "@@ -1,2 +1,1 @@\n-import sys\n \n")
    patches = tuple(
        Patch(title=f"Remove {number}", patch=head + hunk, fingerprints=(one.fingerprint,))
        for number, (one, hunk) in enumerate(zip(issues, hunks, strict=True))
    )
    first, second = told(*issues, fixes=patches)["results"]
    assert applied(OLD, *replacements(first)) == OLD.removeprefix("import os\n")
    assert first["fixes"][0]["description"]["text"] == "Remove 0; tried by checks"
    assert "fixes" not in second
