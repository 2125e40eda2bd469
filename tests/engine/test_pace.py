"""However the time of steps makes prompts be cut, tokens stay the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from openm3.config import EngineConfig, SparseConfig
from openm3.engine.engine import Engine
from openm3.engine.llm import LLM
from openm3.engine.output import Progress
from openm3.engine.params import SamplingParams

PAGE = 16


def load(folder: Path, **changes: Any) -> LLM:
    sparse = SparseConfig(index_block_size=PAGE, index_topk_blocks=3)
    sizes = {"prefill_chunk": 64, "max_batch_tokens": 96, "max_running": 16}
    return LLM(folder, EngineConfig(**{"sparse": sparse, **sizes, **changes}))


def erratic(seed: int) -> Callable[[], float]:
    """A clock by which steps take from a millisecond to seconds."""
    rng, now = random.Random(seed), 0.0

    def clock() -> float:
        nonlocal now
        now += 10 ** rng.uniform(-3, 0.5)
        return now

    return clock


@pytest.mark.parametrize("attention", ["dense", "sparse"])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_time_changes_no_token(tiny_model: Path, attention: str, prefix_cache: bool) -> None:
    llm = load(tiny_model, attention=attention, prefix_cache=prefix_cache)
    if not llm.engine.runner.invariant:
        pytest.skip("prompts are always cut alike here")
    prompts = [
        torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
        for length in (5, 33, 64, 150, 171, 200)
    ]
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=5, ignore_eos=True)
    alone = [list(load(tiny_model, attention=attention).generate([each], params)[0].token_ids) for each in prompts]
    cuts: set[int] = set()
    for seed in range(4):
        engine = Engine(llm.engine.runner, llm.tokenizer, llm.config, erratic(seed))
        requests = []
        for prompt in prompts:
            requests.append(engine.add(prompt, params))
            for _ in range(3):
                events = engine.step()
                cuts |= {event.num_read for event in events if isinstance(event, Progress)}
                engine.scheduler.check()
        while engine.step():
            engine.scheduler.check()
        assert [request.output_ids for request in requests] == alone
    assert {cut for cut in cuts if cut % 64} - {len(prompt) for prompt in prompts}, "nothing was cut short"
