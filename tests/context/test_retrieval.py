"""`retrieve`: what it finds, where that is, and what it refuses."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.tiny_m3 import write_tiny_m3
from openm3.config import EngineConfig, SparseConfig
from openm3.context.retrieval import nearest, retrieve
from openm3.context.sources import Passage, SourceMap
from openm3.engine.llm import LLM
from openm3.engine.prompt import Prompt
from openm3.errors import InputError

SPARSE = SparseConfig(index_block_size=16, index_topk_blocks=4)
LINES = [f"the {word} is number {i}\n" for i, word in enumerate(("cat", "dog", "sea", "sun", "ant", "bee", "elm"))]
TEXT = "".join(LINES)


@pytest.fixture(scope="module", params=["dense", "sparse", "m3"])
def llm(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    if request.param == "m3":
        return LLM(write_tiny_m3(tmp_path_factory.mktemp("models") / "m3"))
    return LLM(tiny_model, EngineConfig(attention=request.param, sparse=SPARSE))


def context(llm: LLM, text: str = TEXT) -> Prompt:
    ids = llm.encode(text)
    return Prompt(ids, sources=SourceMap(ids, llm.tokenizer.token_bytes, [Passage(text, path="a.txt")]))


def test_finds_a_text_that_stands_there(llm: LLM) -> None:
    """Random weights tell little, but equal text has nearly equal keys."""
    read = context(llm)
    [*found] = retrieve(llm, read, LINES[6].strip(), 40)
    assert sum(part.stop - part.start for part in found) == 40
    [source] = found[0].sources
    assert source.path == "a.txt"
    assert source.first_line <= 7 <= source.last_line
    assert found[0].text == TEXT[found[0].start : found[0].stop], "a token is a byte here"
    assert [part.score for part in found] == sorted((part.score for part in found), reverse=True)
    assert 0 < found[0].score <= 1
    assert_idle(llm)


def test_the_second_query_reads_only_itself(llm: LLM) -> None:
    read, reads = context(llm, TEXT * 2), list[tuple[int, int]]()
    first = retrieve(llm, read, "the sea", 20)
    again = retrieve(llm, read, "the sea", 20, on_read=lambda done, of: reads.append((done, of)))
    assert again == first, "a known prefix changes nothing"
    assert len(reads) == 1
    assert reads[0][1] == len(read.ids) + len("\n\nthe sea")


def test_all_tokens_and_one_token(llm: LLM) -> None:
    read = context(llm)
    [everything] = retrieve(llm, read, "sea", len(read.ids))
    assert (everything.start, everything.stop, everything.text) == (0, len(read.ids), TEXT)
    [one] = retrieve(llm, read, "sea", 1, metric="dot")
    assert one.stop - one.start == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": " \n"}, "query: is empty"),
        ({"k": 0}, "k: must be from 1 to the 140 tokens of the context, got 0"),
        ({"k": 141}, "k: must be from 1 to the 140 tokens of the context, got 141"),
        ({"metric": "euclid"}, "metric: must be 'cosine' or 'dot', got 'euclid'"),
        ({"context": Prompt([])}, "context: is empty"),
        ({"query": "x" * 999}, "query: with the context it is 631 tokens more than the window of 512"),
    ],
    ids=str,
)
def test_refuses(tiny_model: Path, changes: dict[str, Any], message: str) -> None:
    llm = LLM(tiny_model)
    with pytest.raises(InputError, match=message):
        retrieve(**{"llm": llm, "context": context(llm), "query": "sea", "k": 9, **changes})
    assert_idle(llm)


def test_a_compacted_context_is_searched_where_it_still_is(tiny_model: Path) -> None:
    llm = LLM(tiny_model, EngineConfig(sparse=SPARSE, max_context=256, prefill_chunk=64, overflow="compact"))
    read = context(llm, TEXT * 4)
    found = retrieve(llm, read, "the sea is number 2", 60)
    assert found
    for part in found:
        assert part.text == (TEXT * 4)[part.start : part.stop]
    assert_idle(llm)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(1, 500), st.integers(1, 32))
def test_spans_are_k_tokens_of_the_best_windows(scores: list[float], k: int, short: int) -> None:
    num_tokens = 32 * len(scores) + short
    k = min(k, num_tokens)
    spans = nearest(scores, num_tokens, k)
    tokens = [token for start, stop, _ in spans for token in range(start, stop)]
    assert len(tokens) == len(set(tokens)) == k
    assert all(0 <= token < num_tokens for token in tokens)
    assert spans[0][2] == max(scores)
    assert all(before[1] < behind[0] for before, behind in pairwise(sorted(spans)))


def assert_idle(llm: LLM) -> None:
    llm.engine.scheduler.check()
    assert llm.engine.scheduler.pool.num_free == llm.engine.scheduler.pool.num_pages
