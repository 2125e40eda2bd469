"""Drafts change no answer, and leave nothing behind that is not the answer's."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from openm3.config import EngineConfig, SparseConfig
from openm3.engine.engine import Engine
from openm3.engine.llm import LLM
from openm3.engine.output import Completion, FinishReason
from openm3.engine.params import SamplingParams
from openm3.errors import InputError
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import QuantisedIndex

PAGE = 16


def load(folder: Path, speculation: str = "auto", **changes: Any) -> LLM:
    sparse = SparseConfig(index_block_size=PAGE, index_topk_blocks=2)
    sizes = {"prefill_chunk": 32, "max_batch_tokens": 256, "max_running": 16, "max_context": 1024}
    llm = LLM(folder, EngineConfig(**{"sparse": sparse, "speculation": speculation, **sizes, **changes}))
    llm.engine = Engine(llm.engine.runner, llm.tokenizer, llm.config, steady())
    return llm


def steady() -> Callable[[], float]:
    """A clock by which every step takes as long, so that drafts cost nothing and are as long as they can be."""
    return itertools.count().__next__


@pytest.fixture(scope="module")
def drafting(tiny_model: Path) -> LLM:
    llm = load(tiny_model)
    if not llm.engine.scheduler.drafts:
        pytest.skip("nothing is drafted where kernels are not invariant")
    return llm


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> LLM:
    return load(tiny_model, "off")


def prompts() -> list[list[int]]:
    """Of a few tokens again and again, so that there is much to be found and much of it is wrong."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 4, (length,), generator=generator).tolist() for length in (3, 16, 47, 100)]


def drafted(answers: list[Completion]) -> tuple[int, int]:
    return sum(each.stats.num_drafted for each in answers), sum(each.stats.num_accepted for each in answers)


def idle(llm: LLM) -> bool:
    scheduler = llm.engine.scheduler
    scheduler.check()
    return scheduler.pool.num_free == scheduler.pool.num_pages and not scheduler.waiting


# Random weights seldom repeat themselves; a repetition penalty below 1 makes them.
PARAMS = {
    "greedy": SamplingParams(max_tokens=70, repetition_penalty=0.3, ignore_eos=True),
    "sampled": SamplingParams(max_tokens=70, repetition_penalty=0.4, temperature=0.5, seed=5, ignore_eos=True),
    "penalised": SamplingParams(
        max_tokens=60, repetition_penalty=0.3, frequency_penalty=0.02, presence_penalty=0.5, ignore_eos=True, logprobs=2
    ),
}


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_drafts_change_nothing(tiny_model: Path, params: SamplingParams, attention: str) -> None:
    fast, slow = load(tiny_model, attention=attention), load(tiny_model, "off", attention=attention, prefix_cache=False)
    if not fast.engine.scheduler.drafts:
        pytest.skip("nothing is drafted where kernels are not invariant")
    expected = [slow.generate([each], params)[0] for each in prompts()]
    for is_known in (False, True):
        answers = fast.generate(prompts(), params)
        for answer, plain in zip(answers, expected, strict=True):
            assert (answer.token_ids, answer.text) == (plain.token_ids, plain.text)
            assert (answer.finish_reason, answer.logprobs) == (plain.finish_reason, plain.logprobs)
            if not is_known and not answer.stats.num_cached:
                assert answer.stats.blocks_read == plain.stats.blocks_read
        assert idle(fast)
    num_drafted, num_accepted = drafted(answers)
    assert 0 < num_accepted < num_drafted, "both kinds of draft tokens were met"
    assert drafted(expected) == (0, 0)


def test_a_draft_past_the_end_of_an_answer(drafting: LLM, plain: LLM) -> None:
    """Stop strings, end tokens and limits in the middle of a draft end the answer where they do without."""
    [whole] = plain.generate([prompts()[-1]], replace(PARAMS["greedy"], max_tokens=80))
    for place in (20, 41, 66):
        limits: list[dict[str, Any]] = [
            {"max_tokens": place},
            {"max_tokens": 80, "stop_token_ids": frozenset({whole.token_ids[place]})},
            {"max_tokens": 80, "stop": (whole.text[place : place + 3],)},
        ]
        for limit in limits:
            params = replace(PARAMS["greedy"], **limit)
            [fast], [slow] = (llm.generate([prompts()[-1]], params) for llm in (drafting, plain))
            assert (fast.token_ids, fast.text, fast.finish_reason) == (slow.token_ids, slow.text, slow.finish_reason)
            assert idle(drafting)


def test_the_window_is_not_drafted_past(drafting: LLM) -> None:
    [answer] = drafting.generate([[1, 2, 3] * 300], replace(PARAMS["greedy"], max_tokens=None))
    assert len(answer.token_ids) == 1024 - 900
    assert answer.finish_reason is FinishReason.LENGTH


def test_a_tight_cache(tiny_model: Path, plain: LLM) -> None:
    """Preemptions and evictions between drafts."""
    cache = plain.engine.runner.cache
    one_page = sum(tensor[0].nbytes for layer in cache.layers for tensor in layer.tensors().values())
    tight = load(tiny_model, cache_bytes=16 * one_page)
    params = replace(PARAMS["greedy"], max_tokens=90)
    answers = tight.generate(prompts(), params)
    assert [each.token_ids for each in answers] == [plain.generate([each], params)[0].token_ids for each in prompts()]
    assert any(each.stats.num_preempted for each in answers)
    assert idle(tight)


@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_a_window_that_overflows(tiny_model: Path, attention: str) -> None:
    """Compactions between drafts."""
    window = {"overflow": "compact", "max_context": 256, "attention": attention}
    fast, slow = (load(tiny_model, speculation, **window) for speculation in ("auto", "off"))
    params = replace(PARAMS["penalised"], max_tokens=200)
    [answer], [expected] = (llm.generate([[1, 2, 3] * 50], params) for llm in (fast, slow))
    assert answer.token_ids == expected.token_ids
    assert answer.stats.num_dropped == expected.stats.num_dropped > 0
    assert idle(fast)


def test_cancelled_at_every_step(drafting: LLM) -> None:
    for num_events in (1, 5, 6, 9, 20, 40):
        _, events = drafting.stream(prompts()[-1], PARAMS["greedy"])
        for _ in range(num_events):
            next(events)
        events.close()  # type: ignore[attr-defined]
        assert idle(drafting)


def test_keys_in_8_bits_are_those_of_the_answer(tiny_model: Path) -> None:
    """Pages that wrong drafts had filled are quantised again."""
    llm = load(tiny_model, attention="sparse", index="int8", prefix_cache=False)
    if not llm.engine.scheduler.drafts:
        pytest.skip("nothing is drafted where kernels are not invariant")
    [answer] = llm.generate([[1, 2, 3] * 33 + [1]], replace(PARAMS["penalised"], max_tokens=200))
    num_drafted, num_accepted = drafted([answer])
    assert 0 < num_accepted < num_drafted
    full = (100 + 200 - 1) // PAGE  # the last token was never computed; pages are handed out from 0 on
    pages = list(range(full))
    for layer in llm.engine.runner.cache.layers:
        assert layer.quantised is not None
        fresh = QuantisedIndex(layer.choosing)
        fresh.update(layer.choosing, PagedBatch.build([full * PAGE], [full * PAGE], [pages], PAGE))
        for name in ("keys_PXSC", "centre_PXC", "bounds_PX4"):
            assert torch.equal(getattr(layer.quantised, name)[:full], getattr(fresh, name)[:full]), name


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"backend": "torch"}], ids=str)
def test_nothing_is_drafted_where_that_could_change_a_token(tiny_model: Path, options: dict[str, Any]) -> None:
    llm = load(tiny_model, **options)
    assert not llm.engine.scheduler.drafts
    assert drafted(llm.generate([prompts()[-1]], PARAMS["greedy"])) == (0, 0)
    with pytest.raises(InputError, match="speculation: needs kernels that compute a token alike"):
        load(tiny_model, "lookup", **options)


def test_it_stops_where_it_does_not_pay(tiny_model: Path) -> None:
    """On a machine where each row costs as much as a step of its own nothing is drafted."""
    llm = load(tiny_model)
    now, rows = 0.0, 0

    def clock() -> float:
        nonlocal now
        now += rows
        return now

    llm.engine = Engine(llm.engine.runner, llm.tokenizer, llm.config, clock)
    run = llm.engine.runner.run

    def counted(batch: Any) -> Any:
        nonlocal rows
        rows = len(batch.token_ids_T)
        return run(batch)

    llm.engine.runner.run = counted  # type: ignore[method-assign]
    [answer] = llm.generate([prompts()[-1]], PARAMS["greedy"])
    assert answer.stats.num_drafted < 10
