"""Each answer reads as many blocks as hold a share of the mass: `EngineConfig.attention_mass`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.output import Completion
from openm3.engine.params import SamplingParams
from openm3.errors import InputError

PAGE = 16
PARAMS = SamplingParams(max_tokens=24, ignore_eos=True)


def load(model: Path, **changes: Any) -> LLM:
    sparse = SparseConfig(index_block_size=PAGE, index_topk_blocks=12)
    sizes = {"prefill_chunk": 64, "max_batch_tokens": 160, "attention": "sparse", "sparse": sparse}
    return LLM(model, EngineConfig(**{**sizes, **changes}))


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def answer(llm: LLM, length: int = 300) -> Completion:
    return llm.generate([prompt(length)], PARAMS)[0]


def test_a_larger_share_reads_more_blocks(tiny_model: Path) -> None:
    chosen = [answer(load(tiny_model, attention_mass=share)).stats.topk for share in (0.1, 0.5, 0.9, 1.0)]
    assert chosen == sorted(chosen) and chosen[0] < chosen[-1] == 12
    assert answer(load(tiny_model)).stats.topk is None


def test_the_number_is_the_smallest_that_holds_the_share(tiny_model: Path) -> None:
    """Against the mass of a dense engine's last row, sorted layer by layer and group by group."""
    llm = load(tiny_model, attention_mass=0.6, dtype="float32", prefill_chunk=320, max_batch_tokens=640)
    request, events = llm.stream(prompt(150), PARAMS)
    held: list[torch.Tensor] = []
    watched = llm.engine._choose_topk

    def spy(chunks: Any, probe: Any) -> None:
        held.append(probe.mass_WB()[0])
        watched(chunks, probe)

    llm.engine._choose_topk = spy  # type: ignore[method-assign]
    list(events)
    [held_B] = held
    assert bool((held_B.diff() >= -1e-6).all()) and float(held_B[-1]) == pytest.approx(1, abs=1e-4)
    assert request.topk is not None
    assert float(held_B[request.topk - 1]) >= 0.6 - 1e-5
    assert request.topk == 1 or float(held_B[request.topk - 2]) < 0.6


def test_answers_read_that_many(tiny_model: Path) -> None:
    stats = answer(load(tiny_model, attention_mass=0.3), 320).stats
    assert stats.topk is not None and stats.topk < 12
    read = sum(min(position // PAGE + 1, 12) for position in range(320))
    read += sum(min(position // PAGE + 1, stats.topk) for position in range(320, 320 + 23))
    assert stats.blocks_read == read


def test_the_whole_mass_and_few_blocks_change_no_token(tiny_model: Path) -> None:
    assert answer(load(tiny_model, attention_mass=1.0)).token_ids == answer(load(tiny_model)).token_ids
    few = answer(load(tiny_model, attention_mass=0.1))
    assert few.token_ids != answer(load(tiny_model)).token_ids, "fewer blocks make another answer"


def test_the_same_answer_in_a_crowd_from_a_known_prefix_and_after_preemption(tiny_model: Path) -> None:
    alone = answer(load(tiny_model, attention_mass=0.5))
    llm = load(tiny_model, attention_mass=0.5)
    crowd = llm.generate([prompt(200, 1), prompt(300), prompt(90, 2)], PARAMS)[1]
    again = answer(llm)
    assert again.stats.num_cached > 200
    goes_on = [*prompt(300), *alone.token_ids, 7]
    warm = llm.generate([goes_on], PARAMS)[0]
    cold = load(tiny_model, attention_mass=0.5).generate([goes_on], PARAMS)[0]
    page_bytes = 2 * 2 * 2 * 16 * 2 * PAGE
    small = load(tiny_model, attention_mass=0.5, cache_bytes=33 * page_bytes, index="exact", step_ms=60_000)
    squeezed = small.generate([prompt(180, 1), prompt(300)], PARAMS)[1]
    assert squeezed.stats.num_preempted
    for other in (crowd, again, squeezed):
        assert (other.token_ids, other.stats.topk) == (alone.token_ids, alone.stats.topk)
    assert (warm.token_ids, warm.stats.topk) == (cold.token_ids, cold.stats.topk)


def test_what_cannot_be_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="attention_mass: must be more than 0 and at most 1, got 0"):
        EngineConfig(attention_mass=0)
    with pytest.raises(InputError, match="attention_mass: is for sparse attention"):
        load(tiny_model, attention="dense", attention_mass=0.9)
    with pytest.raises(InputError, match="attention_mass: is for sparse attention"):
        load(tiny_model, attention="auto", attention_mass=0.9)
    with pytest.raises(InputError, match="attention_mass: is for one process"):
        load(tiny_model, tensor_parallel=2, attention_mass=0.9)


def test_compaction_drops_what_is_least_read(tiny_model: Path) -> None:
    llm = load(tiny_model, attention="dense", max_context=192, overflow="compact")
    request, events = llm.stream(prompt(300), PARAMS)
    list(events)
    assert request.importance is not None and request.holes.spans
    scores = request.importance.scores()
    gone = [block for start, stop in request.holes.spans for block in range(start // PAGE, stop // PAGE)]
    kept = [block for block in range(1, 8) if block not in gone]
    assert kept, "the oldest are not simply the first to go"
    assert np.all(scores >= 0)
