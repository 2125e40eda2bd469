"""What counts as a test, and what a verifier finds out by running: tests that bite, settings that cheat, coverage."""

from __future__ import annotations

import asyncio

import pytest

from minimax_code.budget import Budget
from minimax_code.contract import Check, Contract, Verdict
from minimax_code.events import MemoryLog
from minimax_code.model import ToolCall
from minimax_code.work.task import Task
from minimax_code.work.verifier import Work, verify
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.sandbox import find_sandbox
from minimax_code.workbench.workspace import Workspace

from .conftest import DONE, PASS, PLAN, Shop, fix, last, task, write

CHECK = ["python -m pytest tests/test_cart.py"]
TEST = "from cart import total\nfrom tax import rate\n\n\ndef test_total():\n    assert total([rate(), 2]) == 3\n"


def test_a_test_counts_if_it_fails_by_assertion(shop: Shop) -> None:
    """What passes already, asserts nothing, can't be read or fails otherwise is asked for again."""
    idle = "```python\ndef test_a():\n    print(1)\n```"
    script = [
        "I have none.",
        idle,
        f"```python\n{TEST}```",
        PLAN,
        write("tax.py", "def rate():\n    return 1\n"),
        fix(),
        DONE,
        PASS,
    ]
    result = shop.run(task(checks=()), script)
    assert result.success
    told = [last(request).content for request in shop.model.requests]
    assert "there is no fenced block" in told[1]
    assert "test_a asserts nothing" in told[2]
    assert result.contract and result.contract.origin == "model"
    path = "tests/test_total_adds_up_the_prices.py"
    assert result.contract.failed_before == (f"{path}::test_total",)
    assert set(result.files_created) == {"tax.py", path}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def test_a():\n    assert 1 == 1\n", "passes already"),
        ("def test_a():\n    assert 1 / 0\n", "ends otherwise"),
        ("def test_a(:\n", "is not Python"),
        ("x = 1\n", "no function whose name begins with test"),
    ],
)
def test_three_that_can_t_be_used_are_none(shop: Shop, text: str, why: str) -> None:
    result = shop.run(task(checks=()), [*[f"```python\n{text}```"] * 3, PLAN, fix(), DONE, PASS])
    assert (result.state, result.success) == ("partial", False)
    assert why in result.issues[0]
    assert "nothing is proven" in result.issues[-1]


@pytest.mark.parametrize("check", [*CHECK, "pytest"])
def test_a_test_that_the_worker_weakens_is_put_back(shop: Shop, check: str) -> None:
    """Whether the check names it, or it is among those that fail before the work."""
    shop.lay_tests()
    weaker = write("tests/test_cart.py", "def test_total(): pass\n")
    result = shop.run(task(checks=[check]), [PLAN, weaker, DONE], rounds=1)
    assert (result.state, result.deliverables) == ("failed", ())


def test_settings_that_make_tests_pass_are_found_out(shop: Shop) -> None:
    shop.lay_tests()
    cheat = "import cart\n\ncart.total = sum\n"
    assert "only with the changes of how tests are run: conftest.py" in _doubts(
        shop, task(checks=CHECK), write("conftest.py", cheat)
    )


def test_tests_that_notice_nothing_prove_nothing(shop: Shop) -> None:
    shop.lay({"tests/test_cart.py": "import cart\n\n\ndef test_total():\n    assert cart\n"})
    told = _doubts(shop, task(checks=CHECK), fix("prices[0] + 1"))
    assert "0 of 4 small wrong changes are noticed; not so cart.py:2" in told


def test_a_command_can_notice_what_tests_don_t(shop: Shop) -> None:
    """Not only tests are checks: what changes a command's end is noticed too, also where there are no tests at all."""
    result = shop.run(task(), [PLAN, fix(), DONE, PASS])
    assert result.success
    [mutants] = [receipt for receipt in result.receipts if receipt.command[0] == "mutants:"]
    assert (mutants.command[1:], mutants.checked) == (
        ("cart.py",),
        "1 of 1 small wrong changes are noticed",
    )
    shop.place = shop.place / "again"
    assert "0 of 4 small wrong changes" in _doubts(shop, task(checks=["true"]), fix("prices[0] + 1"))


def test_changed_lines_that_no_test_runs(shop: Shop) -> None:
    shop.lay_tests()
    body = "sum(prices)\n\n\ndef other():\n    return 1\n"
    covered = task(checks=CHECK, constraints={"min_coverage": 100})
    assert "tests run 66.7% of the changed lines, and 100% are asked for; not run are cart.py: 6" in _doubts(
        shop, covered, fix(body)
    )


def test_what_was_touched_and_may_not_be(shop: Shop) -> None:
    """No tool of an agent can; what does it here is a check, before the files are recorded."""
    contract = Contract(checks=(Check(command=("true",)),), forbidden=("docs/*",))
    shop.lay({"docs/a.md": "A\n"})

    async def verdict() -> Verdict:
        workspace = await Workspace.create(shop.folder, shop.place)
        base = await workspace.snapshot()
        (workspace.path / "docs/a.md").write_text("B\n")
        tree = await workspace.snapshot()
        work = Work(task=task(), contract=contract, base=base, tree=tree, changed=["docs/a.md"], diff="")
        bench = Workbench(workspace, find_sandbox())
        return await verify(work, bench, model=None, log=MemoryLog(), budget=Budget(), agent="verifier 1")

    found = asyncio.run(verdict())
    assert (found.outcome, found.mendable) == ("PARTIAL", ("docs/a.md may not be touched, and was",))


def _doubts(shop: Shop, task: Task, call: ToolCall) -> str:
    """What is told the worker of work whose checks pass and that is partial at the end; no model is asked about it."""
    result = shop.run(task, [PLAN, call, DONE, DONE], rounds=2)
    assert (result.state, result.success) == ("partial", False), result
    assert result.verdict and result.verdict.outcome == "PARTIAL"
    assert all(issue in last(shop.model.requests[-1]).content for issue in result.issues)
    return "\n".join(result.issues)
