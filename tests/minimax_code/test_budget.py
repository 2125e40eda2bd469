"""Budgets: what is set aside counts, children take from their parents, and nothing is ever given twice."""

from __future__ import annotations

import random

import pytest

from minimax_code.budget import Amount, Budget, Left, Price
from minimax_code.errors import BudgetError, InputError
from minimax_code.model import Usage


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_set_aside_is_gone_until_it_is_settled() -> None:
    budget = Budget(tokens=1000, calls=2)
    with budget.reserve(prompt_tokens=500, completion_tokens=200) as reservation:
        assert budget.left == Left(tokens=300, calls=1)
        with pytest.raises(BudgetError, match="301 tokens are needed .* 300 of 1,000 are left") as caught:
            budget.reserve(prompt_tokens=301, completion_tokens=0)
        assert caught.value.limit == "tokens"
        reservation.settle(Usage(prompt_tokens=450, cached_tokens=400, completion_tokens=50))
        reservation.settle(Usage(prompt_tokens=450))
    assert (budget.left, budget.spent.tokens) == (Left(tokens=500, calls=1), 500)


def test_a_call_that_failed_costs_a_call() -> None:
    budget = Budget(tokens=10, calls=1)
    with pytest.raises(OSError), budget.reserve(prompt_tokens=5, completion_tokens=5):
        raise OSError
    assert budget.left == Left(tokens=10, calls=0)
    with pytest.raises(BudgetError, match="1 calls are needed .* 0 of 1"):
        budget.reserve(prompt_tokens=1, completion_tokens=1)


def test_nothing_left_is_nothing_at_all() -> None:
    with pytest.raises(BudgetError, match="0 of 0 are left"):
        Budget(tokens=0).child().reserve(prompt_tokens=1, completion_tokens=0)
    with pytest.raises(InputError, match=r"budget\.calls: must be 0 or more, got -1"):
        Budget(calls=-1)
    assert Budget().left == Left()


def test_a_child_has_no_more_than_its_parent() -> None:
    parent = Budget(tokens=100)
    one, other = parent.child(tokens=80), parent.child(tokens=80)
    one.reserve(prompt_tokens=60, completion_tokens=0)
    assert (one.left.tokens, other.left.tokens, parent.left.tokens) == (20, 40, 40)
    with pytest.raises(BudgetError, match="50 tokens are needed .* 40 of 100"):
        other.reserve(prompt_tokens=50, completion_tokens=0)
    assert other.left.tokens == 40


def test_money_is_counted_by_price_and_the_cheap_part_of_a_prompt_is_cheap() -> None:
    budget = Budget(money=1.0, price=Price(prompt=1.0, cached=0.1, completion=4.0))
    with pytest.raises(BudgetError) as caught:
        budget.reserve(prompt_tokens=1_000_000, completion_tokens=1)
    assert caught.value.limit == "money"
    with budget.reserve(prompt_tokens=500_000, completion_tokens=100_000) as reservation:
        reservation.settle(Usage(prompt_tokens=500_000, cached_tokens=400_000, completion_tokens=10_000))
    assert budget.spent.money == pytest.approx(0.1 + 0.04 + 0.04)


def test_seconds_run_and_those_of_an_earlier_process_count() -> None:
    clock = Clock()
    budget = Budget(seconds=60, spent=Amount(seconds=20.0, calls=3), clock=clock)
    child = budget.child(seconds=50)
    assert (budget.left.seconds, child.left.seconds) == (40, 40)
    clock.now += 39
    child.reserve(prompt_tokens=1, completion_tokens=1)
    clock.now += 1
    with pytest.raises(BudgetError, match="all of 60 seconds are used up") as caught:
        child.reserve(prompt_tokens=1, completion_tokens=1)
    assert (caught.value.limit, budget.spent.calls) == ("seconds", 3)


@pytest.mark.parametrize("seed", range(5))
def test_no_tree_of_budgets_ever_uses_more_than_its_root(seed: int) -> None:
    chance = random.Random(seed)
    root = Budget(tokens=5000, calls=60)
    tree, open_ones = [root], []
    for _ in range(400):
        match chance.choice(("child", "reserve", "reserve", "settle")):
            case "child":
                tree.append(chance.choice(tree).child(tokens=chance.choice((None, 0, 700, 10_000))))
            case "reserve":
                try:
                    most = chance.randrange(1, 300)
                    one = chance.choice(tree).reserve(prompt_tokens=most, completion_tokens=0)
                    open_ones.append((one, most))
                except BudgetError:
                    pass
            case _ if open_ones:
                reservation, most = open_ones.pop(chance.randrange(len(open_ones)))
                reservation.settle(Usage(prompt_tokens=chance.randrange(most + 1)))
        assert root.spent.tokens + sum(most for _, most in open_ones) <= 5000
        assert root.spent.calls + len(open_ones) <= 60
    for reservation, _ in open_ones:
        reservation.settle(Usage())
    assert root.left.tokens == 5000 - root.spent.tokens
