"""States of prompts as vectors, through the engine: the same alone, in chunks, beside others, and after preemption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.output import Delta, FinishReason
from openm3.engine.params import SamplingParams

POOLED = SamplingParams(max_tokens=1, pool=True)
PROMPTS = [list(range(30)), [7], [*range(200), *range(200)]]  # of several pages and chunks, and less than one


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> list[NDArray[np.float32]]:
    """What transformers makes of the prompts."""
    model = AutoModel.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.inference_mode():
        return [model(torch.tensor([prompt])).last_hidden_state[0].mean(0).numpy() for prompt in PROMPTS]


def states(llm: LLM, prompts: Sequence[Sequence[int]], *, answers: int = 0) -> list[NDArray[np.float32]]:
    """Of all prompts, read at once, while others are answered."""
    for i in range(answers):
        llm.engine.add([i, i + 1], SamplingParams(max_tokens=100, ignore_eos=True))
    requests = [llm.engine.add(prompt, POOLED) for prompt in prompts]
    ends: dict[str, Delta] = {}
    while events := llm.engine.step():
        ends |= {event.request_id: event for event in events if isinstance(event, Delta) and event.finish_reason}
        llm.engine.scheduler.check()
    found = []
    for request in requests:
        delta = ends[request.request_id]
        assert (delta.token_id, delta.text, delta.finish_reason) == (None, "", FinishReason.STOP)
        assert delta.state is not None and delta.stats and delta.stats.num_cached == delta.stats.num_generated == 0
        found.append(delta.state)
    return found


def check(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> None:
    for state, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(state, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("answers", [0, 3])
def test_states_are_those_of_transformers_in_any_company(
    tiny_model: Path, expected: list[NDArray[np.float32]], answers: int
) -> None:
    llm = LLM(tiny_model, EngineConfig(dtype="float32", prefill_chunk=128))
    check(states(llm, PROMPTS, answers=answers), expected)
    check(states(llm, PROMPTS, answers=answers), expected)  # again: a known prefix would have no states


def test_a_prompt_that_gave_its_pages_up_is_read_again(tiny_model: Path, expected: list[NDArray[np.float32]]) -> None:
    llm = LLM(tiny_model, EngineConfig(dtype="float32", prefill_chunk=128))
    request = llm.engine.add(PROMPTS[-1], POOLED)
    llm.engine.step()
    assert 0 < request.num_computed < len(PROMPTS[-1])
    llm.engine.scheduler._preempt(request)
    ends = [event for _ in range(9) for event in llm.engine.step() if isinstance(event, Delta)]
    assert request.num_preempted == 1 and ends[0].state is not None
    check([ends[0].state], expected[-1:])


def test_what_was_pooled_is_no_prefix_of_another_prompt(tiny_model: Path) -> None:
    llm = LLM(tiny_model, EngineConfig(dtype="float32"))
    states(llm, PROMPTS)
    [answer] = llm.generate([PROMPTS[-1]], SamplingParams(max_tokens=2))
    assert answer.stats.num_cached == 0
