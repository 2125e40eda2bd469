"""`Scheduler` under random arrivals, cancellations and steps, with the invariant checked after each."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openm3.config import EngineConfig, SparseConfig
from openm3.engine.cost import Work
from openm3.engine.fairness import ALONE, Share
from openm3.engine.output import FinishReason
from openm3.engine.pages import PagePool
from openm3.engine.params import SamplingParams
from openm3.engine.request import Request, State
from openm3.engine.scheduler import Chunk, Scheduler
from openm3.errors import InputError

PAGE = 16
CONFIG = EngineConfig(sparse=SparseConfig(index_block_size=PAGE), max_running=4, prefill_chunk=32, max_batch_tokens=40)


def scheduler(num_pages: int) -> Scheduler:
    return Scheduler(CONFIG, PagePool(num_pages, PAGE))


def request(name: str, num_prompt: int, max_tokens: int, share: Share = ALONE) -> Request:
    return Request(name, [1] * num_prompt, SamplingParams(seed=0), max_tokens, share=share)


def compute(chunks: list[Chunk], on: Scheduler) -> None:
    """What the engine does with a step: tokens are computed, and one is generated where the request is complete."""
    for chunk in chunks:
        on.commit(chunk.request, chunk.stop)
        if chunk.completes:
            chunk.request.output_ids.append(2)
            if len(chunk.request.output_ids) == chunk.request.max_tokens:
                on.finish(chunk.request, FinishReason.LENGTH)


SHARES = [ALONE, Share("plus", 1.0), Share("max", 4.0), Share("small", 0.1)]

operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 90), st.integers(1, 40)),
        st.tuples(st.just("step"), st.just(0), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 99), st.just(0)),
    ),
    max_size=80,
)


@settings(max_examples=200)
@given(st.integers(1, 14), operations)
def test_random_operations(num_pages: int, steps: list[tuple[str, int, int]]) -> None:
    under_test = scheduler(num_pages)
    accepted: list[Request] = []
    for kind, first, second in steps:
        if kind == "add":
            new = request(f"r{len(accepted)}", first, second, SHARES[(first + second) % len(SHARES)])
            try:
                under_test.add(new)
            except InputError:
                assert -(-new.max_total // PAGE) > num_pages, "only what can never run is refused"
            else:
                accepted.append(new)
        elif kind == "cancel" and accepted:
            under_test.finish(accepted[first % len(accepted)], FinishReason.CANCELLED)
        elif kind == "step":
            step(under_test)
        under_test.check()
    for _ in range(10_000):  # whatever happened, everybody gets to the end
        if all(each.state is State.FINISHED for each in accepted):
            break
        assert step(under_test), "someone waits and nothing is computed"
        under_test.check()
    assert all(each.state is State.FINISHED for each in accepted)
    assert under_test.pool.num_free == num_pages


def step(under_test: Scheduler) -> list[Chunk]:
    chunks = under_test.schedule()
    assert sum(chunk.stop - chunk.start for chunk in chunks) <= CONFIG.max_batch_tokens
    assert len({chunk.request.request_id for chunk in chunks}) == len(chunks)
    for chunk in chunks:
        assert chunk.start == chunk.request.num_computed
        assert chunk.start // CONFIG.prefill_chunk == (chunk.stop - 1) // CONFIG.prefill_chunk
        assert len(chunk.request.pages) * PAGE >= chunk.stop
    compute(chunks, under_test)
    return chunks


def test_chunks_fall_alike_alone_and_in_a_crowd() -> None:
    def chunks_of(name: str, crowd: int) -> list[tuple[int, int]]:
        under_test = scheduler(64)
        for i in range(crowd):
            under_test.add(request(f"other{i}", 50, 30))
        under_test.add(request(name, 75, 3))
        seen = []
        while any(each.request_id == name for each in [*under_test.waiting, *under_test.running]):
            chunks = under_test.schedule()
            seen += [(chunk.start, chunk.stop) for chunk in chunks if chunk.request.request_id == name]
            compute(chunks, under_test)
        return seen

    assert chunks_of("mine", 0) == chunks_of("mine", 3) == [(0, 32), (32, 64), (64, 75), (75, 76), (76, 77)]


def paced(*, step_ms: int | None = 100, page_s: float, **changes: Any) -> tuple[Scheduler, Request]:
    """A scheduler with a request that is answering, on a machine that needs `page_s` seconds for a page of anything."""
    config = replace(CONFIG, prefill_chunk=64, max_batch_tokens=96, step_ms=step_ms, prefix_cache=False)
    under_test = Scheduler(config, PagePool(64, PAGE), **changes)
    answering = request("answering", 5, 200)
    under_test.add(answering)
    compute(under_test.schedule(), under_test)
    for rows in (1, 8, PAGE, 64):
        under_test.cost.learn(Work(rows=rows), page_s * rows / PAGE)
    return under_test, answering


def read(under_test: Scheduler) -> list[tuple[str, int, int]]:
    """What a step reads beside the answer."""
    chunks = under_test.schedule()
    compute(chunks, under_test)
    return [(chunk.request.request_id, chunk.start, chunk.stop) for chunk in chunks[1:]]


def test_beside_an_answer_a_step_reads_the_pages_that_fit_into_its_time() -> None:
    under_test, _ = paced(page_s=0.030)
    under_test.add(request("reading", 150, 1))
    assert [read(under_test) for _ in range(4)] == [
        [("reading", 0, 48)],  # the next page would end after 120 ms, and the answer's token takes 2
        [("reading", 48, 64)],
        [("reading", 64, 112)],
        [("reading", 112, 128)],
    ]


def test_where_a_page_takes_too_long_quarters_are_read_and_other_prompts_wait() -> None:
    under_test, _ = paced(page_s=0.150)
    under_test.add(request("first", 20, 1))
    under_test.add(request("second", 40, 1))
    assert [read(under_test) for _ in range(4)] == [
        [("first", 0, 8)],  # 75 ms, and 9 for the answer's token
        [("first", 8, 16)],
        [("first", 16, 20)],
        [("second", 0, 8)],
    ]


def test_at_least_a_quarter_is_read() -> None:
    under_test, _ = paced(page_s=0.700)
    under_test.add(request("first", 20, 1))
    assert [read(under_test) for _ in range(2)] == [[("first", 0, 4)], [("first", 4, 8)]]


def test_where_answers_alone_take_long_reading_may_take_as_long() -> None:
    under_test, _ = paced(page_s=0.030)
    under_test.cost.seconds = lambda work: 1.0 + 0.030 * work.rows / PAGE  # type: ignore[method-assign]
    under_test.add(request("reading", 150, 1))
    assert read(under_test) == [("reading", 0, 64)]


def test_what_is_left_of_a_steps_time_goes_to_the_next_prompt() -> None:
    under_test, _ = paced(page_s=0.030)
    under_test.add(request("first", 30, 1))
    under_test.add(request("second", 40, 1))
    assert read(under_test) == [("first", 0, 30), ("second", 0, 16)]


def test_with_nobody_answering_chunks_are_whole() -> None:
    under_test, answering = paced(page_s=0.500)
    under_test.finish(answering, FinishReason.CANCELLED)
    under_test.add(request("reading", 150, 1))
    assert [(chunk.start, chunk.stop) for chunk in under_test.schedule()] == [(0, 64)]


def test_where_kernels_are_not_invariant_prompts_are_cut_alike() -> None:
    under_test, _ = paced(step_ms=None, page_s=0.500, invariant=False)
    assert under_test.step_s is None
    under_test.add(request("reading", 150, 1))
    assert [read(under_test) for _ in range(2)] == [[("reading", 0, 64)], [("reading", 64, 128)]]
    with pytest.raises(InputError, match="step_ms: needs kernels that compute a token alike in any company"):
        paced(step_ms=100, page_s=0.500, invariant=False)


def test_answers_go_on_while_a_prompt_is_read() -> None:
    under_test = scheduler(64)
    under_test.add(request("answering", 5, 30))
    compute(under_test.schedule(), under_test)
    under_test.add(request("reading", 90, 1))
    for _ in range(3):
        chunks = under_test.schedule()
        assert [chunk.request.request_id for chunk in chunks] == ["answering", "reading"]
        compute(chunks, under_test)


def test_the_newest_gives_its_pages_up_and_comes_back() -> None:
    under_test = scheduler(num_pages=4)
    old, new = request("old", 30, 30), request("new", 30, 20)
    under_test.add(old)
    under_test.add(new)
    while not new.num_preempted:
        assert step(under_test)
    assert new.state is State.WAITING
    assert not new.pages
    assert new.num_computed == 0
    assert new.output_ids, "what it had answered is kept"
    while State.RUNNING in (old.state, new.state) or under_test.waiting:
        step(under_test)
    assert len(new.output_ids) == 20
    assert not old.num_preempted


def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(InputError, match="may come to 100 tokens and the cache holds 64"):
        scheduler(num_pages=4).add(request("big", 60, 40))


def test_knows_no_torch() -> None:
    script = "import sys, openm3.engine.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
