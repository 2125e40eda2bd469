"""`Service` on the tiny model: many callers, cancellation, failure, shutdown."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.output import Delta, FinishReason, Progress
from openm3.engine.params import SamplingParams
from openm3.engine.service import Service
from openm3.errors import InputError

PARAMS = SamplingParams(max_tokens=8, ignore_eos=True)
LONG = SamplingParams(max_tokens=400, ignore_eos=True)


@pytest.fixture
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model, EngineConfig(dtype="float32"))


async def collect(service: Service, prompt: list[int], params: SamplingParams = PARAMS) -> list[int | None]:
    deltas = [e async for e in service.stream(prompt, params) if isinstance(e, Delta)]
    assert [d.finish_reason is None for d in deltas] == [True] * (len(deltas) - 1) + [False]
    return [d.token_id for d in deltas]


def assert_idle(llm: LLM) -> None:
    scheduler = llm.engine.scheduler
    scheduler.check()
    assert not scheduler.running
    assert not scheduler.waiting
    assert scheduler.pool.num_free == scheduler.pool.num_pages


def test_many_callers_get_what_one_would(llm: LLM) -> None:
    prompts = [[i, i + 1, i + 2] for i in range(24)]
    expected = [list(completion.token_ids) for completion in llm.generate(prompts, PARAMS)]

    async def run() -> None:
        service = Service(llm)
        await service.start()
        assert await asyncio.gather(*(collect(service, prompt) for prompt in prompts)) == expected
        await service.aclose()

    asyncio.run(run())
    assert_idle(llm)


def test_leaving_a_stream_frees_its_pages_and_harms_nobody(llm: LLM) -> None:
    async def run() -> None:
        service = Service(llm)
        await service.start()
        other = asyncio.create_task(collect(service, [7, 8, 9], LONG))
        stream = service.stream([1, 2, 3], LONG)
        async for event in stream:
            if isinstance(event, Delta):
                break
        await stream.aclose()
        while service.status().running != 1:
            await asyncio.sleep(0.01)
        assert len(await other) == 400
        await service.aclose()

    asyncio.run(run())
    assert_idle(llm)


def test_a_refused_prompt_raises_and_the_rest_goes_on(llm: LLM) -> None:
    async def run() -> None:
        service = Service(llm)
        await service.start()
        with pytest.raises(InputError, match="prompt: is empty"):
            await collect(service, [])
        assert len(await collect(service, [1])) == 8
        await service.aclose()

    asyncio.run(run())
    assert_idle(llm)


def test_closing_ends_every_stream(llm: LLM) -> None:
    async def run() -> None:
        service = Service(llm)
        await service.start()
        streams = [service.stream([i], LONG) for i in range(3)]
        firsts = [await anext(stream) for stream in streams]
        assert all(isinstance(first, Progress) for first in firsts)
        late = asyncio.create_task(collect(service, [5], LONG))
        await asyncio.sleep(0)  # it has posted its prompt, which the close must answer too
        await service.aclose()
        await service.aclose()
        for stream in streams:
            rest = [event async for event in stream]
            assert isinstance(rest[-1], Delta)
            assert rest[-1].finish_reason is FinishReason.CANCELLED
        await asyncio.wait_for(late, 5)
        with pytest.raises(RuntimeError, match="not running"):
            await collect(service, [1])

    asyncio.run(run())
    assert_idle(llm)


def test_a_broken_step_ends_its_requests_with_an_error_and_the_next_ones_work(
    llm: LLM, caplog: pytest.LogCaptureFixture
) -> None:
    working = llm.engine.runner.run

    def broken(batch: object) -> object:
        llm.engine.runner.run = working  # type: ignore[method-assign]
        raise MemoryError("no room")

    async def run() -> None:
        service = Service(llm)
        await service.start()
        llm.engine.runner.run = broken  # type: ignore[method-assign, assignment]
        with caplog.at_level(logging.CRITICAL), pytest.raises(RuntimeError, match="the engine failed: no room"):
            await collect(service, [1])
        assert len(await collect(service, [1])) == 8
        await service.aclose()

    asyncio.run(run())
    assert_idle(llm)
