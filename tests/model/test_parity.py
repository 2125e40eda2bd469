"""The default model against `transformers` on the same GGUF file, dequantised to fp32 by both."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.output import Completion
from openm3.engine.params import SamplingParams

NEW_TOKENS = 64

PROMPTS = [
    "Hello",
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "import torch\n\nclass Attention(nn.Module):\n",
    "#include <stdio.h>\nint main(void) {",
    "SELECT name, count(*) FROM users WHERE",
    "1, 1, 2, 3, 5, 8,",
    "Once upon a time, in a village by the sea,",
    "Q: What is 17 + 25?\nA:",
    "The three laws of thermodynamics are",
    "中国的首都是",
    "🙂🙃 emoji and naïve café",
    "Dear Sir or Madam,\n\nI am writing to",
    "   leading spaces and\ttabs\n\n\nand lines",
    '{"name": "openm3", "version":',
    "<html><body><h1>",
    "In 1969, Neil Armstrong",
    "A list of fruits:\n- apple\n- ",
    "\\begin{theorem} Let $x \\in \\mathbb{R}$. Then",
    "lorem ipsum dolor sit amet " * 30,
]


@pytest.fixture(scope="module")
def ours(default_model_path: Path) -> LLM:
    return LLM(default_model_path, EngineConfig(dtype="float32"))


@pytest.fixture(scope="module")
def theirs(default_model_path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, while it converts a GGUF file
        path = default_model_path
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def answers(ours: LLM) -> list[Completion]:
    """To all of them at once: each step reads the weights for 20 tokens, and the crowd changes none."""
    params = SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=20)
    return ours.generate([ours.encode(text) for text in PROMPTS], params)


@pytest.mark.parametrize("i", range(len(PROMPTS)), ids=lambda i: PROMPTS[i][:20].encode("unicode_escape").decode())
def test_logits_and_greedy_tokens(ours: LLM, theirs: Any, answers: list[Completion], i: int) -> None:
    """One pass of theirs over prompt and answer: if each token is its likeliest next one, its greedy answer is ours."""
    prompt_ids, answer = ours.encode(PROMPTS[i]), answers[i]
    with torch.inference_mode():
        logits_TV = theirs(torch.tensor([[*prompt_ids, *answer.token_ids[:-1]]])).logits[0]
    rows_NV = logits_TV[len(prompt_ids) - 1 :]
    assert rows_NV.argmax(-1).tolist() == list(answer.token_ids)
    for ours_at, logprobs_V in zip(answer.logprobs, rows_NV.log_softmax(-1), strict=True):
        for top in ours_at.top:
            assert abs(top.logprob - logprobs_V[top.token_id].item()) < 1e-3


def test_bf16_stays_close(default_llm: LLM, ours: LLM) -> None:
    """The default dtype: log probabilities of the likeliest tokens within a tenth, the first token the same."""
    params = SamplingParams(max_tokens=1, logprobs=5)
    prompts = [default_llm.encode(text) for text in PROMPTS]
    for low, high in zip(default_llm.generate(prompts, params), ours.generate(prompts, params), strict=True):
        expected = {top.token_id: top.logprob for top in high.logprobs[0].top}
        differences = [abs(top.logprob - expected.get(top.token_id, top.logprob)) for top in low.logprobs[0].top]
        assert max(differences) < 0.25
        assert sum(differences) / len(differences) < 0.1
