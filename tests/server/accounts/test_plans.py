from __future__ import annotations

from pathlib import Path

import pytest

from openm3.errors import InputError
from openm3.server.accounts.plans import plan_named, read_plans


def test_the_packaged_plans_are_those_of_the_article() -> None:
    plans = read_plans()
    assert {name: plan.tokens_per_day for name, plan in plans.items()} == {
        "plus": 100_000,
        "max": 500_000,
        "ultra": None,
    }
    assert plans["plus"].weight < plans["max"].weight < plans["ultra"].weight
    assert {plan.max_context for plan in plans.values()} == {1_000_000}
    assert [plan.allows("custom/mine") for plan in plans.values()] == [False, False, True]
    assert all(plan.allows("default") for plan in plans.values())


PLAN = """[small]
tokens_per_day = 10
requests_per_minute = "unlimited"
concurrent_requests = 1
max_context = 100
answer_tokens = 5
weight = 0.5
models = ["a*", "!ab", "abc"]
"""


def test_a_file_of_an_operator(tmp_path: Path) -> None:
    (tmp_path / "plans.toml").write_text(PLAN)
    [plan] = read_plans(tmp_path / "plans.toml").values()
    assert (plan.name, plan.tokens_per_day, plan.requests_per_minute, plan.weight) == ("small", 10, None, 0.5)
    assert [plan.allows(name) for name in ("a", "ab", "abc", "b")] == [True, False, True, False]
    with pytest.raises(InputError, match="there is no plan 'smal'; did you mean 'small'"):
        plan_named("smal", {"small": plan})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("tokens_per_day", "tokens_per_dya"),
            r"\[small\] has an unknown key 'tokens_per_dya'; did you mean 'tokens_per_d",
        ),
        (("weight = 0.5", ""), r"\[small\] lacks weight"),
        (("= 10\n", "= 10.5\n"), r'tokens_per_day must be a whole number above 0 or "unlimited", got 10.5'),
        (("= 10\n", "= 0\n"), "tokens_per_day must be a whole number above 0"),
        (("= 10\n", "= true\n"), "tokens_per_day must be a whole number above 0"),
        (("0.5", "nan"), "weight must be a number above 0"),
        (("0.5", "0"), "weight must be a number above 0"),
        (('["a*", "!ab", "abc"]', '"a*"'), "models must be a list of patterns"),
        (("[small]", "[small"), "plans.toml"),
        (("[small]", "small = 1\n[other]"), "small must be a table"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_by_name(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "plans.toml").write_text(PLAN.replace(*change))
    with pytest.raises(InputError, match=message):
        read_plans(tmp_path / "plans.toml")


def test_a_file_that_is_not_there_or_has_no_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't read"):
        read_plans(tmp_path / "plans.toml")
    (tmp_path / "plans.toml").write_bytes(b"\xff")
    with pytest.raises(InputError, match="plans.toml"):
        read_plans(tmp_path / "plans.toml")
    (tmp_path / "plans.toml").write_text("")
    with pytest.raises(InputError, match="has no plan"):
        read_plans(tmp_path / "plans.toml")
