"""`PrefixIndex`, and the law that a known prefix changes no token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.output import Completion
from openm3.engine.params import SamplingParams
from openm3.engine.prefix import PrefixIndex

PAGE = 16


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=11), min_size=1, max_size=8))
def test_a_match_is_the_longest_known_beginning(prompts: list[list[int]]) -> None:
    """Against every prompt before, with pages of three tokens; the last one of a prompt may be partly filled."""
    index, contents, next_page = PrefixIndex(3), dict[int, list[int]](), 0
    for number, tokens in enumerate(prompts):
        match = index.match(tokens)
        assert all(contents[page] == tokens[i * 3 : i * 3 + 3] for i, page in enumerate(match.pages))
        found = 3 * len(match.pages) + match.num_partial
        if match.partial is not None:
            start = 3 * len(match.pages)
            assert contents[match.partial][: match.num_partial] == tokens[start:found]
        common = [_common(tokens, earlier) for earlier in prompts[:number]]
        assert found == min(max(common, default=0), len(tokens) - 1)
        parent = b""
        for start in range(0, len(tokens), 3):
            contents[next_page] = tokens[start : start + 3]
            parent = index.add(next_page, parent, contents[next_page]) or parent
            next_page += 1


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_what_is_forgotten_is_not_found() -> None:
    index = PrefixIndex(2)
    first = index.add(7, b"", [1, 2])
    assert first is not None
    assert index.add(8, first, [3]) is None
    assert index.match([1, 2, 3, 4]).partial == 8
    index.forget(8)
    assert index.match([1, 2, 3, 4]).pages == (7,)
    assert index.match([1, 2, 3, 4], salt=b"another image").pages == ()
    index.forget(7)
    assert index.match([1, 2, 3, 4]).pages == ()
    assert 7 not in index


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def llm(folder: Path, **changes: Any) -> LLM:
    sparse = SparseConfig(index_block_size=PAGE, index_topk_blocks=3)
    sizes = {"prefill_chunk": 32, "max_batch_tokens": 96, "max_running": 16}
    return LLM(folder, EngineConfig(**{"sparse": sparse, "attention": "sparse", **sizes, **changes}))


def answer(model: LLM, tokens: list[int], **params: Any) -> Completion:
    [completion] = model.generate([tokens], SamplingParams(**{"max_tokens": 12, "ignore_eos": True, **params}))
    model.engine.scheduler.check()
    assert model.engine.scheduler.pool.num_free == model.engine.scheduler.pool.num_pages
    return completion


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("backend", [None, "torch"])
def test_a_known_prefix_changes_no_token(tiny_model: Path, dtype: str, backend: str | None) -> None:
    cached = llm(tiny_model, dtype=dtype, backend=backend)
    fresh = llm(tiny_model, dtype=dtype, backend=backend, prefix_cache=False)
    base = prompt(150)
    follow_up = base + list(answer(fresh, base).token_ids) + prompt(9, seed=3)
    for tokens in (base, base, base[:64], base[:65], base[:97] + prompt(20, seed=1), follow_up, base[:1], follow_up):
        assert answer(cached, tokens).token_ids == answer(fresh, tokens).token_ids
    assert answer(fresh, base).stats.num_cached == 0


@pytest.mark.parametrize(
    "length, then, cached",
    [
        (64, 64, 63),  # all of it: the last token is computed again
        (64, 65, 64),  # ends on the edge of a page
        (70, 100, 70),  # ends in the middle of one
        (70, 50, 49),  # begins a longer one
        (5, 4, 3),
        (1, 1, 0),
    ],
)
def test_how_much_is_found(tiny_model: Path, length: int, then: int, cached: int) -> None:
    model, tokens = llm(tiny_model), prompt(120)
    if not model.engine.runner.invariant:
        pytest.skip("single tokens are found where the kernels are invariant")
    answer(model, tokens[:length], max_tokens=1)
    assert answer(model, tokens[:then], max_tokens=1).stats.num_cached == cached


def test_an_answer_is_known_too(tiny_model: Path) -> None:
    model, tokens = llm(tiny_model), prompt(40)
    first = answer(model, tokens)
    if model.engine.runner.invariant:
        longer = [*tokens, *first.token_ids, 5]
        assert answer(model, longer).stats.num_cached == len(longer) - 2  # the answer's last token was never computed


def test_a_crowd_in_a_tight_cache(tiny_model: Path) -> None:
    """Shared pages, evictions and preemptions at once change no token and lose no page."""
    page_bytes = 2 * 2 * 2 * PAGE * 16 * 2
    tight, fresh = llm(tiny_model, cache_bytes=24 * page_bytes), llm(tiny_model, prefix_cache=False)
    base = prompt(100)
    prompts = [base[: 20 + 7 * i] + prompt(i, seed=i) for i in range(11)]
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    expected = [fresh.generate([each], params)[0].token_ids for each in prompts]
    for _ in range(2):
        answers = tight.generate(prompts, params)
        assert [each.token_ids for each in answers] == expected
        tight.engine.scheduler.check()
    assert any(each.stats.num_cached for each in answers)
    assert any(each.stats.num_preempted for each in answers)


def test_what_was_read_most_stays_longest(tiny_model: Path) -> None:
    """Two prompts of the same length; the blocks of the one that evidence was asked about outlive the other's."""
    model = llm(tiny_model, cache_bytes=30 * 2 * 2 * 2 * PAGE * 16 * 2, index="exact")
    if not model.engine.runner.invariant:
        pytest.skip("single pages are found where the kernels are invariant")
    watched, other = prompt(10 * PAGE, seed=1), prompt(10 * PAGE, seed=2)
    answer(model, watched, evidence=True)
    answer(model, other)
    answer(model, prompt(12 * PAGE, seed=3))  # more than is left: someone's pages go
    assert answer(model, watched, max_tokens=1).stats.num_cached == len(watched) - 1
    assert answer(model, other, max_tokens=1).stats.num_cached < len(other) - 1
