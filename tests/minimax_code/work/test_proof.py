"""What counts as a test, and what a verifier finds out by running: tests that bite, settings that cheat, coverage."""

from __future__ import annotations

import pytest

from minimax_code.work.result import TaskResult

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


def test_a_test_that_the_worker_weakens_is_put_back(shop: Shop) -> None:
    shop.lay_tests()
    result = shop.run(
        task(checks=CHECK), [PLAN, write("tests/test_cart.py", "def test_total(): pass\n"), DONE], rounds=1
    )
    assert (result.state, result.deliverables) == ("failed", ())


def test_settings_that_make_tests_pass_are_found_out(shop: Shop) -> None:
    shop.lay_tests()
    cheat = "import cart\n\ncart.total = sum\n"
    result = shop.run(task(checks=CHECK), [PLAN, write("conftest.py", cheat), DONE, PASS])
    assert (result.state, result.success) == ("partial", False)
    assert "only with the changes of how tests are run: conftest.py" in result.issues[-1]


def test_tests_that_notice_nothing_prove_nothing(shop: Shop) -> None:
    shop.lay({"tests/test_cart.py": "import cart\n\n\ndef test_total():\n    assert cart\n"})
    assert "notice none of" in _issues(shop.run(task(checks=CHECK), [PLAN, fix("prices[0] + 1"), DONE, PASS]))


def test_changed_lines_that_no_test_runs(shop: Shop) -> None:
    shop.lay_tests()
    body = "sum(prices)\n\n\ndef other():\n    return 1\n"
    covered = task(checks=CHECK, constraints={"min_coverage": 100})
    assert "tests run 66.7%" in _issues(shop.run(covered, [PLAN, fix(body), DONE], rounds=1))


def _issues(result: TaskResult) -> str:
    assert not result.success
    return "\n".join(result.issues)
