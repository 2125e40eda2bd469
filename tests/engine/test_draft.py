"""`Lookup` against a search from front to back, and what a `Drafter` learns."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from openm3.engine.draft import Drafter, Lookup

TEXT = st.lists(st.integers(0, 2), max_size=40)


def common(tokens: list[int], place: int) -> int:
    """How many tokens before `place` are those that the text ends with."""
    count = 0
    while count < min(place, 32) and tokens[place - 1 - count] == tokens[-1 - count]:
        count += 1
    return count


@given(TEXT, TEXT)
def test_the_longest_match_and_of_equal_ones_the_latest(prompt: list[int], more: list[int]) -> None:
    answer: list[int] = []
    lookup = Lookup(prompt, answer)
    for token in [None, *more]:
        if token is not None:
            answer.append(token)
        tokens = [*prompt, *answer]
        places = [place for place in range(3, len(tokens)) if common(tokens, place) >= 3][-16:]
        expected = max(places, key=lambda place: (common(tokens, place), place), default=0)
        found, matched = lookup.find()
        assert matched == (common(tokens, expected) if places else 0)
        if places:
            assert found == expected
            assert lookup.tokens(found, 5) == tokens[found : found + 5]


def test_tokens_of_a_large_vocabulary_are_not_confused() -> None:
    tokens = [200_063, 0, 1, 7, 0, 0, 1, 8, 200_063, 0, 1]
    assert Lookup(tokens, []).find() == (3, 3)


def test_a_long_prompt_is_not_searched_again() -> None:
    answer = [1, 2, 3]
    lookup = Lookup([i % 5000 for i in range(1 << 18)], answer)
    started = time.perf_counter()
    for token in range(1000):
        answer.append(token)
        lookup.find()
    assert time.perf_counter() - started < 10, "a search from front to back would take minutes"


def test_what_is_right_is_drafted_with_more_confidence_and_what_is_wrong_with_less() -> None:
    prompt = [1, 2, 3, 4, 5, 6, 1, 2, 3]
    drafter = Drafter(prompt, [])
    first = drafter.draft(9)
    assert first.tokens == (4, 5, 6, 1, 2, 3)
    assert drafter.draft(2).tokens == (4, 5)
    for _ in range(9):
        drafter.learn(6, 6)
    assert drafter.draft(6).chance > 0.9 > first.chance
    for _ in range(30):
        drafter.learn(6, 0)
    assert drafter.draft(6).chance < 0.2
    for _ in range(300):
        drafter.draft(6)
    assert abs(drafter.draft(6).chance - first.chance) < 0.05, "after a while it is tried again"


def test_nothing_in_common_is_no_draft() -> None:
    assert Drafter([1, 2, 3, 4], []).draft(5).tokens == ()
    assert Drafter([], [1]).draft(5).tokens == ()
    assert Drafter([1, 1, 1, 1], []).draft(0).tokens == ()
