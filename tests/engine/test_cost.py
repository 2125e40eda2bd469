"""`StepCost`: what it learns from noisy steps of a machine whose costs are known."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from openm3.engine.cost import StepCost, Work

SEEN = (Work.of(500, 501), Work.of(7900, 7901), Work.of(0, 128), Work.of(7900, 8028), Work.of(7900, 8412))


def truth(work: Work) -> float:
    return 0.010 + 0.0005 * work.rows + 2e-8 * work.pairs + 1e-7 * work.contexts


def noisy(seconds: float, rng: random.Random) -> float:
    """Up to a tenth more, and in every tenth step up to four times as much."""
    return seconds * (1 + 0.1 * rng.random() + (3 * rng.random() if rng.random() < 0.1 else 0))


def learn(cost: StepCost, works: Iterable[Work], seed: int) -> None:
    rng = random.Random(seed)
    for work in works:
        cost.learn(work, noisy(truth(work), rng))


def test_work_counts_what_every_token_sees() -> None:
    assert Work.of(3, 6) == Work(rows=3, pairs=4 + 5 + 6, contexts=6)
    assert Work.of(0, 4) + Work.of(9, 10) == Work(rows=5, pairs=20, contexts=14)


def test_nothing_seen_costs_nothing() -> None:
    cost = StepCost()
    assert not cost.knows
    assert cost.seconds(Work.of(0, 512)) == 0


def test_without_noise_the_first_steps_are_enough() -> None:
    cost = StepCost()
    for work in (*SEEN, *SEEN, *SEEN):
        cost.learn(work, truth(work))
    for work in (*SEEN, Work.of(2000, 2256), Work.of(2000, 2256) + Work.of(300, 301)):
        assert cost.seconds(work) == pytest.approx(truth(work), rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_disturbed_steps(seed: int) -> None:
    cost = StepCost()
    learn(cost, (Work.of(start, start + 512) for start in range(0, 7680, 512)), seed)
    learn(cost, (Work.of(7680 + i, 7681 + i) for i in range(40)), seed)
    learn(cost, (Work.of(128 * i, 128 * i + 128) + Work.of(7720, 7721 + i) for i in range(40)), seed)
    answer = Work.of(7760, 7761)
    for work in (answer, Work.of(1000, 1128) + answer, Work.of(5000, 5128) + answer, Work.of(4096, 4608)):
        assert cost.seconds(work) == pytest.approx(truth(work), rel=0.3)


def test_a_long_answer_forgets_nothing_of_reading() -> None:
    cost = StepCost()
    for start in range(0, 4096, 512):
        cost.learn(Work.of(start, start + 512), truth(Work.of(start, start + 512)))
    learn(cost, (Work.of(4096 + i, 4097 + i) for i in range(500)), seed=0)
    for work in (Work.of(1024, 1536), Work.of(3072, 3584)):
        assert cost.seconds(work) == pytest.approx(truth(work), rel=0.15)


def test_a_row_more_is_cheap_after_a_prompt_and_a_few_tokens() -> None:
    """Chunks show nothing of what a step costs by itself, where products hide it; a draft is tried all the same."""
    cost = StepCost()
    cost.learn(Work.of(0, 512), 0.250)
    cost.learn(Work.of(512, 988), 0.240)
    for i in range(5):
        cost.learn(Work.of(988 + i, 989 + i), 0.008)
    assert cost.seconds(Work.of(993, 995)) < 1.2 * cost.seconds(Work.of(993, 994))


def test_a_machine_that_becomes_slower_is_believed() -> None:
    cost = StepCost()
    work = Work.of(100, 101)
    for _ in range(50):
        cost.learn(work, 0.010)
    for _ in range(100):
        cost.learn(work, 0.050)
    assert cost.seconds(work) == pytest.approx(0.050, rel=0.1)
