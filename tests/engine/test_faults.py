"""What goes wrong while the engine runs: no page is lost, and others get the tokens they would have got."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.output import Delta, FinishReason
from openm3.engine.params import SamplingParams
from openm3.errors import InputError

PAGE = 16
GREEDY = SamplingParams(max_tokens=8, ignore_eos=True)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def llm(folder: Path, **changes: Any) -> LLM:
    sparse = SparseConfig(index_block_size=PAGE, index_topk_blocks=3)
    sizes = {"prefill_chunk": 32, "max_batch_tokens": 96, "max_running": 16, "attention": "sparse", "sparse": sparse}
    return LLM(folder, EngineConfig(**{**sizes, **changes}))


def idle(model: LLM) -> bool:
    scheduler = model.engine.scheduler
    scheduler.check()
    return scheduler.pool.num_free == scheduler.pool.num_pages and not scheduler.waiting and not scheduler.running


@pytest.mark.parametrize("spill", [False, True])
def test_cancelled_at_every_step_of_a_long_prompt(tiny_model: Path, tmp_path: Path, spill: bool) -> None:
    spilling = {"spill": True, "spill_dir": str(tmp_path), "cache_bytes": 1 << 20} if spill else {}
    model, long, other = llm(tiny_model, **spilling), prompt(400), prompt(40, seed=1)
    [expected] = llm(tiny_model).generate([other], GREEDY)
    num_steps = -(-len(long) // 32)
    for stop in range(num_steps + 1):
        tokens = [stop, *long[1:]]  # begins otherwise, so that all of it is read
        request = model.engine.add(tokens, GREEDY)
        neighbour = model.engine.add(other, GREEDY)
        for _ in range(stop):
            model.engine.step()
            model.engine.scheduler.check()
        model.engine.cancel(request)
        model.engine.scheduler.check()
        assert request.finish_reason is FinishReason.CANCELLED and not request.pages
        while neighbour.finish_reason is None:
            model.engine.step()
        assert tuple(neighbour.output_ids) == expected.token_ids
        assert idle(model)


def test_ten_thousand_requests_queued_and_dropped(tiny_model: Path) -> None:
    model = llm(tiny_model)
    survivor = model.engine.add(prompt(50), GREEDY)
    requests = [model.engine.add([i % 256, i // 256, 7], GREEDY) for i in range(10_000)]
    for request in requests[::2]:
        model.engine.cancel(request)
    model.engine.step()
    model.engine.scheduler.check()
    for request in reversed(requests):
        model.engine.cancel(request)
    model.engine.scheduler.check()
    while survivor.finish_reason is None:
        model.engine.step()
    assert idle(model)
    assert tuple(survivor.output_ids) == llm(tiny_model).generate([prompt(50)], GREEDY)[0].token_ids


@pytest.mark.parametrize("spill", [False, True])
def test_less_memory_than_one_request_needs(tiny_model: Path, tmp_path: Path, spill: bool) -> None:
    """Refused when it is added, in one sentence; what does fit is answered."""
    page_bytes = 2 * 2 * 2 * PAGE * 16 * 2
    spilling = {"spill": True, "spill_dir": str(tmp_path), "spill_bytes": 5 * page_bytes // 2}
    model = llm(tiny_model, cache_bytes=5 * page_bytes, index="exact", **(spilling if spill else {}))
    small = prompt(40)
    with pytest.raises(InputError, match="prompt: with its answer it may come to 98 tokens and the cache holds 80"):
        model.engine.add(prompt(90), GREEDY)
    assert idle(model)
    assert model.generate([small], GREEDY)[0].token_ids == llm(tiny_model).generate([small], GREEDY)[0].token_ids
    assert idle(model)


def test_a_step_that_fails_loses_nothing(tiny_model: Path) -> None:
    """The network raises once, in the middle of a prompt: the request can go on, or be given up."""
    model, tokens = llm(tiny_model), prompt(200)
    [expected] = llm(tiny_model).generate([tokens], GREEDY)
    request, events = model.stream(tokens, GREEDY)
    next(events)
    run, model.engine.runner.run = model.engine.runner.run, lambda batch: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        model.engine.step()
    model.engine.runner.run = run  # type: ignore[method-assign]
    model.engine.scheduler.check()
    ids = [event.token_id for event in events if isinstance(event, Delta)]
    assert tuple(ids) == expected.token_ids
    assert request.finish_reason is FinishReason.LENGTH
    assert idle(model)
