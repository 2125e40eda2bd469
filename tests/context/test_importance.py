from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openm3.context.importance import Importance, smallest_k


def test_the_formula() -> None:
    readings = np.random.default_rng(0).dirichlet(np.ones(5), 20).astype(np.float32)
    importance = Importance(half_life=4)
    for mass_B in readings:
        importance.update(mass_B)
    weights = 0.5 ** (np.arange(19, -1, -1) / 4)
    expected = (weights[:, None] * readings).sum(0) / weights.sum()
    np.testing.assert_allclose(importance.scores(), expected, atol=1e-6)
    assert importance.scores().sum() == pytest.approx(1, abs=1e-5)
    assert importance.score(2) == pytest.approx(expected[2], abs=1e-6)


def test_half_of_it_is_gone_after_the_half_life() -> None:
    importance = Importance(half_life=3)
    importance.update(np.array([1, 0], np.float32))
    for _ in range(3):
        importance.update(np.array([0, 0], np.float32))
    once = Importance(half_life=3)
    once.update(np.array([1, 0], np.float32))
    assert importance._mass_B[0] == pytest.approx(once._mass_B[0] / 2)


def test_blocks_that_come_later() -> None:
    importance = Importance()
    assert (importance.score(0), importance.optimal_k(), list(importance.scores())) == (0, 0, [])
    importance.update(np.array([1], np.float32))
    importance.update(np.array([0.25, 0.75], np.float32))
    assert importance.score(0) > importance.score(1) > 0
    assert importance.score(7) == 0


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=30), st.floats(0.01, 1))
def test_optimal_k_is_the_smallest_that_holds_the_share(masses: list[float], target: float) -> None:
    mass_B = (np.array(masses) / np.sum(masses)).astype(np.float32)
    importance = Importance()
    importance.update(mass_B)
    k = importance.optimal_k(target)
    best = np.sort(mass_B.astype(np.float64))[::-1]
    assert best[:k].sum() >= target - 1e-5
    assert k == 1 or best[: k - 1].sum() < target + 1e-5


def test_out_of_range() -> None:
    with pytest.raises(ValueError, match="target: must be more than 0 and at most 1, got 0"):
        smallest_k(np.ones(1), 0)
    with pytest.raises(ValueError, match="half_life: must be more than 0"):
        Importance(0)
