"""Pull requests on a server that speaks GitHub's API, on a real socket, and the command."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from helpers.commits import Commits
from helpers.forge import Forge, serving
from minimax_code.cli.main import minimax_code
from minimax_code.errors import InputError, ModelError, WorkspaceError
from minimax_code.review import render
from minimax_code.review.github import GitHub
from minimax_code.review.posting import post_review, review_pull_request
from minimax_code.review.result import Comment, Review
from minimax_code.workbench import testrun

SHOP = "def half(x: float) -> float:\n    return x / 2\n\n\ndef twice(x: float) -> float:\n    return 2 * x\n"
TESTS = "from shop import half\n\n\ndef test_half() -> None:\n    assert half(4) == 2\n"
FEW = {"standards": []}  # types take the longest
FEW_OPTION = ("--standard", "performance")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest in the sandbox starts without the plugins that are installed here; the environment has no token."""
    monkeypatch.setitem(testrun._ENV, "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("GITHUB_TOKEN", "MINIMAX_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MINIMAX_CODE_CONFIG", "/nonexistent")


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    commits = Commits(tmp_path / "repo")
    base = commits.commit("base", {"shop.py": SHOP, "test_shop.py": TESTS})
    head = commits.commit("head", {"shop.py": "import os\n\n" + SHOP.replace("x / 2", "x // 3")})
    with serving(commits, tmp_path / "served", base, head) as forge:
        yield forge


def test_a_pull_request_is_reviewed_and_posted_once(forge: Forge) -> None:
    found, posted = asyncio.run(review_pull_request(forge.url, 7, FEW))
    assert [(issue.rule, issue.line) for issue in found.issues] == [("test:regression", 4), ("ruff:F401", 1)]
    assert (posted, forge.reviews) == ("", [])
    _, posted = asyncio.run(review_pull_request(forge.url, 7, FEW, token="secret", post=True))
    assert posted.endswith("#review-1")
    [review] = forge.reviews
    assert (review["commit_id"], review["event"]) == (forge.head, "COMMENT")
    assert [(one["path"], one["line"], one["side"]) for one in review["comments"]] == [
        ("shop.py", 4, "RIGHT"), ("shop.py", 1, "RIGHT"),
    ]  # fmt: skip
    _, posted = asyncio.run(review_pull_request(forge.url, 7, FEW, token="secret", post=True))
    assert (posted, len(forge.reviews)) == ("", 1)


def comment(path: str, line: int, fingerprint: str = "f") -> Comment:
    """One on a line."""
    return Comment(path=path, line=line, body="wrong", fingerprint=fingerprint)


def posted(forge: Forge, *comments: Comment, head: str = "a" * 40) -> list[Any]:
    """Where the comments of the review stand that is posted last."""
    review = Review(base="b" * 40, head=head, files=(), unread={}, issues=(), comments=comments)

    async def run() -> None:
        server = GitHub(forge.url, "secret")
        await post_review(server, 7, review)
        await server.close()

    asyncio.run(run())
    return [(one["path"], one["line"]) for one in forge.reviews[-1]["comments"]]


def test_a_later_head_gets_only_the_comments_that_are_new(forge: Forge) -> None:
    old, new = comment("shop.py", 4, "old"), comment("shop.py", 1, "new")
    assert posted(forge, old) == [("shop.py", 4)]
    forge.comments += [{"body": f"x{i}", "user": {"login": "me"}} for i in range(150)]  # more than a page
    forge.comments.insert(0, {"body": render.mark_of("new"), "user": {"login": "mallory"}})  # it isn't ours
    assert posted(forge, old, new, head="c" * 40) == [("shop.py", 1)]
    assert len(forge.reviews) == 2
    posted(forge, old, new, comment("shop.py", 3), head="c" * 40)
    assert len(forge.reviews) == 2


def test_what_the_server_doesnt_show_gets_no_comment(forge: Forge) -> None:
    forge.files[:0] = [{"filename": f"a{i}.py", "patch": "@@ -1 +1 @@\n-a\n+b"} for i in range(120)]
    forge.files.append({"filename": "large.py"})  # of which it shows no hunks
    forge.files.append({"filename": "cut.py", "patch": "@@ -1,9 +1,9 @@\n-a\n+b"})
    wanted = [comment("large.py", 1), comment("a110.py", 1), comment("a110.py", 2), comment("cut.py", 1)]
    assert posted(forge, *wanted, comment("shop.py", 4)) == [("a110.py", 1), ("shop.py", 4)]


def test_a_closed_pull_request_gets_no_review(forge: Forge) -> None:
    forge.state = "closed"
    with pytest.raises(InputError, match="pr_number: 7 is closed, so no review is posted"):
        asyncio.run(review_pull_request(forge.url, 7, FEW, token="secret", post=True))


def test_a_rate_limit_is_waited_for_or_told(forge: Forge) -> None:
    forge.refusals = [(429, {"Retry-After": "0"}), (403, {"Retry-After": "0"})]
    assert asyncio.run(GitHub(forge.url).pull_request(7)).head == forge.head
    later = str(int(time.time()) + 1800)
    forge.refusals = [(403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": later})]
    with pytest.raises(WorkspaceError, match=r"rate limit is used up for 30 minutes; .* give a token"):
        asyncio.run(GitHub(forge.url).pull_request(7))


def test_a_review_that_is_too_long_to_be_posted_is_cut_between_lines() -> None:
    notes = tuple(f"note {i}" for i in range(20_000))
    body = render.github(Review(base="b" * 40, head="a" * 40, files=(), unread={}, issues=(), notes=notes))["body"]
    assert len(body) < 65_536
    assert body.endswith(f"The rest is longer than can be posted.\n\n{render.mark_of('a' * 40)}")


def test_the_command_reviews_a_url_and_writes_files(forge: Forge, tmp_path: Path) -> None:
    names = {"--markdown": "a.md", "--sarif": "a.sarif", "--junit": "a.xml", "--review-json": "a.json"}
    files = [word for option, name in names.items() for word in (option, str(tmp_path / name))]
    done = CliRunner().invoke(minimax_code, ["review", f"{forge.url}#7", *FEW_OPTION, *files])
    assert done.exit_code == 1
    assert "1 test passed before this change, and no longer" in done.output
    assert (tmp_path / "a.md").read_text() == done.output
    assert len(json.loads((tmp_path / "a.json").read_text())["comments"]) == 2
    assert json.loads((tmp_path / "a.sarif").read_text())["version"] == "2.1.0"
    assert forge.reviews == []


def test_the_command_needs_no_model_and_says_what_to_do_without_its_server(tmp_path: Path) -> None:
    commits = Commits(tmp_path)
    commits.commit("base", {"shop.py": SHOP})
    commits.commit("head", {"shop.py": SHOP.replace("half", "halved")})
    args = ["review", "base..head", "--repo", str(tmp_path), *FEW_OPTION]
    nowhere = {"MINIMAX_BASE_URL": "http://127.0.0.1:1/v1"}
    done = CliRunner().invoke(minimax_code, args, env=nowhere)
    assert isinstance(done.exception, ModelError)
    assert "start its server, or review by facts alone (--facts-only, facts_only)" in str(done.exception)
    done = CliRunner().invoke(minimax_code, [*args, "--facts-only"], env=nowhere)
    assert (done.exception, done.exit_code) == (None, 0)
    assert "Facts only: no model has read it." in done.output


def test_the_command_makes_a_branch_of_fixes(tmp_path: Path) -> None:
    commits = Commits(tmp_path)
    commits.commit("base", {"shop.py": SHOP})
    head = commits.commit("head", {"shop.py": f"import os\n\n{SHOP}"})
    (tmp_path / "shop.py").write_text("mine\n")
    args = ["review", "base..head", "--repo", str(tmp_path), "--auto-fix", "--branch", "mended", *FEW_OPTION]
    done = CliRunner().invoke(minimax_code, args)
    assert "The branch mended has them, 1 on top of the head." in done.output
    assert commits.git("rev-parse", "mended~1").strip() == head
    assert commits.git("log", "-1", "--format=%an %s", "mended").strip() == (
        "minimax-code shop.py: Remove unused import: `os` (F401)"
    )
    assert "import os" not in commits.git("show", "mended:shop.py")
    assert ((tmp_path / "shop.py").read_text(), commits.git("rev-parse", "HEAD").strip()) == ("mine\n", head)
    again = CliRunner().invoke(minimax_code, args)
    assert isinstance(again.exception, InputError)
    assert str(again.exception) == "branch: mended is there already; give another name"


@pytest.mark.parametrize(
    "url",
    ["github.com/a/b", "ftp://github.com/a/b", "https://github.com/a", "https://u:p@github.com/a/b", "https://h/../b"],
)
def test_what_is_no_repository_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="repo_url"):
        GitHub(url)


def test_a_token_is_never_sent_in_the_clear() -> None:
    with pytest.raises(InputError, match="must be https, as a token is sent"):
        GitHub("http://example.com/a/b", "secret")


def test_what_a_server_refuses_is_told(forge: Forge) -> None:
    with pytest.raises(InputError, match="pr_number: GET /repos/org/shop/pulls/8 was answered with 404"):
        asyncio.run(review_pull_request(forge.url, 8))
    with pytest.raises(InputError, match="POST .* was answered with 403"):
        asyncio.run(GitHub(forge.url, "wrong").post(7, {"comments": []}))
    with pytest.raises(WorkspaceError, match="can't be reached"):
        asyncio.run(review_pull_request("http://127.0.0.1:1/a/b", 7))
