"""Reviews of commits in real repositories."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from helpers.commits import Commits
from minimax_code.errors import InputError, WorkspaceError
from minimax_code.review import render
from minimax_code.review.change import read_change
from minimax_code.review.config import ReviewConfig
from minimax_code.review.result import Review, comments_of
from minimax_code.review.reviewer import review_range
from minimax_code.review.sarif import sarif
from minimax_code.workbench import testrun

SHOP = '''"""Prices."""


def discount(price: float, percent: float) -> float:
    """A price with a discount."""
    if percent < 0 or percent > 100:
        raise ValueError(percent)
    return price * (100 - percent) / 100


def total(prices: list[float]) -> float:
    """All prices."""
    result = 0.0
    for price in prices:
        result += price
    return result
'''
TESTS = """import pytest

from shop import discount, total


def test_discount() -> None:
    assert discount(200, 10) == 180
    with pytest.raises(ValueError):
        discount(1, 101)


def test_total() -> None:
    assert total([1, 2]) == 3
"""
BASE = {"shop.py": SHOP, "test_shop.py": TESTS}
CLEAN = SHOP.replace("result", "amount").replace("All prices.", "The sum of all prices.")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest in the sandbox starts without the plugins that are installed here."""
    monkeypatch.setitem(testrun._ENV, "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def review(
    folder: Path,
    files: Mapping[str, str | None],
    config: Mapping[str, Any] | None = None,
    base: Mapping[str, str] = BASE,
) -> Review:
    """The review of a change to `base`; the repository is as it was before."""
    commits = Commits(folder)
    commits.commit("base", base)
    commits.commit("head", files)
    (folder / "dirty.txt").write_text("not committed")
    before = commits.state()
    found = asyncio.run(review_range(folder, "base..head", {"standards": [], **(config or {})}))
    assert commits.state() == before
    return found


def test_a_bug_is_found_by_its_tests_and_stands_on_its_line(tmp_path: Path) -> None:
    bug = CLEAN.replace("percent > 100", "percent > 101")
    found = review(tmp_path, {"shop.py": bug})
    [issue] = found.issues
    assert (issue.file, issue.line, issue.severity, issue.evidence) == ("shop.py", 6, "high", "test")
    assert "1 test passed before this change, and no longer: `test_shop.py::test_discount`" in issue.message
    assert "They pass again with these lines as they were." in issue.message
    assert "DID NOT RAISE" in issue.details
    [comment] = found.comments
    assert (comment.path, comment.line, comment.side) == ("shop.py", 6, "RIGHT")
    assert (found.passed, found.test_summary) == (False, "python: 1 passed, 1 failed")
    assert found.coverage == 100
    assert {receipt.sandbox for receipt in found.receipts} == {"bubblewrap"}


def test_a_clean_change_gets_no_comment(tmp_path: Path) -> None:
    found = review(tmp_path, {"shop.py": CLEAN})
    assert (found.issues, found.comments, found.passed) == ((), (), True)
    assert found.files == ("shop.py",)


def test_only_what_is_new_counts(tmp_path: Path) -> None:
    old = f"import os\nimport sys\n{SHOP}\n\nx: int = 'a'\n"
    base = {**BASE, "old.py": old, "test_old.py": "def test_red(): assert 0\n"}
    new = f"# moved\n{old}\n\ndef f(y: int) -> str:\n    return y\n"
    found = review(tmp_path, {"old.py": None, "new.py": new}, {"standards": ["types"]}, base)
    assert [(issue.file, issue.line, issue.rule, issue.evidence) for issue in found.issues] == [
        ("new.py", 26, "mypy:return-value", "tool")
    ]
    assert "1 test failed on the base already; that counts for neither side." in found.notes


def test_callers_that_the_change_breaks_are_found_where_they_are(tmp_path: Path) -> None:
    base = {**BASE, "use.py": "from shop import total\n\nprint(total([1.0]))\n"}
    other = SHOP.replace("prices: list[float]", "prices: dict[str, float]")
    found = review(tmp_path, {"shop.py": other}, {"standards": ["types"]}, base)
    assert ("use.py", 3, "mypy:arg-type") in {(issue.file, issue.line, issue.rule) for issue in found.issues}
    assert all(comment.path == "shop.py" for comment in found.comments)  # no hunk shows use.py
    assert "`use.py:3`" in render.markdown(found)


def test_what_isnt_read_and_what_isnt_covered_is_listed(tmp_path: Path) -> None:
    new = "def half(x: float) -> float:\n    if x < 0:\n        return 0\n    return x / 2\n"
    files = {"shop.py": f"{SHOP}\n\n{new}", "logo.svg": "<svg/>", "gen/a.py": "x = (\n", "test_shop.py": TESTS}
    config = {"min_coverage": 80, "exclude": ["gen/*"], "standards": ["pep8", "security_best_practices"]}
    found = review(tmp_path, files, config)
    assert found.unread == {"logo.svg": "is of a kind that nothing here reads", "gen/a.py": "is excluded"}
    assert (found.coverage, found.uncovered) == (25.0, {"shop.py": (20, 21, 22)})
    assert (found.enough_covered, found.passed) == (False, False)
    text = render.markdown(found)
    assert "- `shop.py`: 20-22" in text
    assert "Tests run 25% of the changed lines; 80% are asked for." in text
    assert "- `logo.svg` is of a kind that nothing here reads" in text


def test_tests_that_cant_run_any_more(tmp_path: Path) -> None:
    found = review(tmp_path, {"shop.py": SHOP.replace("def total", "def sum_of")})
    assert [(issue.file, issue.severity, issue.evidence) for issue in found.issues if issue.evidence == "test"] == [
        ("shop.py", "high", "test")
    ]
    assert "test_shop.py" in found.issues[0].message


def test_fixes_are_commits_that_were_tried(tmp_path: Path) -> None:
    bad = SHOP.replace('"""Prices."""\n', '"""Prices."""\n\nimport os\n')
    found = review(tmp_path, {"shop.py": bad}, {"auto_fix": True})
    [patch] = found.auto_fixes
    assert patch.title == "shop.py: Remove unused import: `os` (F401)"
    assert patch.fingerprints == (found.issues[0].fingerprint,)
    commits = Commits(tmp_path / "again")
    commits.commit("head", {"shop.py": bad})
    (commits.folder / "fix.patch").write_text(patch.patch)
    commits.git("apply", "fix.patch")
    assert "import os" not in (commits.folder / "shop.py").read_text()


def test_what_ruff_would_write_is_a_suggestion(tmp_path: Path) -> None:
    more = """

def told(code: int) -> str:
    if code == 1: return f"a ``` b"
    from os import (
        path,
    )
    from sys import (argv,
                     exit)
    return str(argv)
"""
    found = review(tmp_path, {"shop.py": SHOP.replace('"""Prices."""', '"""Prices."""\n\nimport os') + more})
    posted = {comment.line: comment for comment in found.comments}
    assert posted[3].body.endswith("\n\n```suggestion\n```")
    assert posted[3].start_line is None
    assert posted[22].body.endswith('\n\n````suggestion\n    if code == 1: return "a ``` b"\n````')
    others = [issue for issue in found.issues if issue.rule == "ruff:F401" and issue.line != 3]
    assert others
    assert not any(issue.replacement for issue in others)  # their fix begins above
    assert {*posted} == {3, 22}  # the same is said of a file once


def test_a_suggestion_of_several_lines(tmp_path: Path) -> None:
    new = "def first(x: list[int]) -> int:\n    return list(sorted(\n        x,\n    ))[0]\n"
    found = review(tmp_path, {"new.py": new}, {"standards": ["performance"]})
    heavy = [issue.model_copy(update={"severity": "medium"}) for issue in found.issues if issue.rule == "ruff:C413"]
    added = "".join(f"+{line}\n" for line in new.splitlines())
    change = read_change("", "", f"--- /dev/null\n+++ b/new.py\n@@ -0,0 +1,4 @@\n{added}")
    [comment] = comments_of(heavy, change, ReviewConfig())
    assert (comment.start_line, comment.line) == (2, 4)
    assert comment.body.endswith("```suggestion\n    return sorted(\n        x,\n    )[0]\n```")


def test_what_other_programs_read(tmp_path: Path) -> None:
    found = review(tmp_path, {"shop.py": SHOP.replace("result += price", "result -= price")}, {"min_coverage": 50})
    posted = render.github(found)
    assert posted["commit_id"] == found.head
    assert [(comment["path"], comment["line"], comment["side"]) for comment in posted["comments"]] == [
        ("shop.py", 15, "RIGHT")
    ]
    told = json.loads(sarif(found, "0.1.0"))
    [result] = told["runs"][0]["results"]
    assert (told["version"], result["ruleId"], result["level"]) == ("2.1.0", "test:regression", "error")
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 15}
    assert result["partialFingerprints"] == {"primaryLocationLineHash": f"{found.issues[0].fingerprint}:1"}
    suite = ElementTree.fromstring(render.junit(found))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


@pytest.mark.parametrize(
    ("commits", "config", "told"),
    [
        ("base", None, "range: must be BASE..HEAD"),
        ("base..nowhere", None, "range: 'nowhere' is no commit"),
        ("--help..base", None, "is no commit"),
        ("base..base", {"min_covrage": 3}, "config.min_covrage: is unknown; did you mean min_coverage?"),
        ("base..base", {"min_coverage": 101}, "config.min_coverage: Input should be less than or equal to 100"),
        ("base..base", {"standards": ["pep9"]}, "config.standards: 'pep9' is none of pep8"),
    ],
)
def test_what_cant_be_reviewed_is_told_in_a_sentence(
    tmp_path: Path, commits: str, config: Mapping[str, Any] | None, told: str
) -> None:
    Commits(tmp_path).commit("base", {"a.py": ""})
    with pytest.raises(InputError) as error:
        asyncio.run(review_range(tmp_path, commits, config))
    assert told in str(error.value)


def test_a_folder_without_commits(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="is no git repository"):
        asyncio.run(review_range(tmp_path, "a..b"))
