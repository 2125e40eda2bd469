"""Images and videos through the whole model against `transformers` on the same random checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MiniMaxM3SparseForConditionalGeneration

from helpers.seeing_m3 import film, image, png, user, write_seeing_m3
from helpers.videos import video
from openm3.config import EngineConfig
from openm3.engine.batch import build_batch
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.engine.request import Request
from openm3.engine.scheduler import Chunk
from openm3.model.vision_patches import normalize

NEW_TOKENS = 24
CASES: dict[str, list[dict[str, Any]]] = {
    "an image": user(image(png(64, 80))),
    "two images of different size, and text": user(
        "Which of ", image(png(64, 64, seed=1)), " and ", image(png(150, 40, seed=2)), " is larger? Say why."
    ),
    "a video of two segments": user("What happens?", film(video(41))),
    "a video between images": user(image(png(seed=3)), film(video(9)), "and", image(png(90, 70, seed=4)), "?"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seeing_m3(tmp_path_factory.mktemp("models") / "m3")


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, EngineConfig(dtype="float32", prefill_chunk=48, max_batch_tokens=128))


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Iterator[Any]:
    logging.disable(logging.WARNING)
    model, info = MiniMaxM3SparseForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), "vision and text load whole"
    yield model.eval()
    logging.disable(logging.NOTSET)


def their_inputs(prompt: Prompt, llm: LLM) -> dict[str, Tensor]:
    """Our tokens and patches as transformers takes them."""
    vision = llm.engine.runner.vision
    assert vision is not None
    inputs, first = {"input_ids": torch.tensor([prompt.ids])}, 0
    for patches in prompt.media:
        token = prompt.ids[prompt.places[first]]
        first += patches.num_tokens
        values, grids = (
            ("pixel_values", "image_grid_thw")
            if token == vision.config.image_token_index
            else ("pixel_values_videos", "video_grid_thw")
        )
        for name, tensor in ((values, normalize(patches.pixels_NP)), (grids, torch.tensor(patches.grids))):
            inputs[name] = torch.cat([inputs[name], tensor]) if name in inputs else tensor
    return inputs


def our_logits(llm: LLM, prompt: Prompt, length: int) -> Tensor:
    """Of every token, in chunks of a length, through the engine's own batches."""
    runner, page_size = llm.engine.runner, llm.config.sparse.index_block_size
    request = Request("one", prompt.ids, SamplingParams(seed=0), 1, prompt.media, prompt.places)
    request.pages = list(range(-(-len(prompt.ids) // page_size)))
    request.seen_NC = runner.see(request.media)
    logits = []
    for start in range(0, len(prompt.ids), length):
        stop = min(start + length, len(prompt.ids))
        batch = build_batch([Chunk(request, start, stop)], page_size)
        logits.append(runner.run(replace(batch, logit_rows_L=torch.arange(stop - start))))
    return torch.cat(logits)


@pytest.mark.parametrize("messages", CASES.values(), ids=CASES)
def test_every_logit(llm: LLM, theirs: Any, messages: list[dict[str, Any]]) -> None:
    prompt = llm.encode_chat(messages)
    with torch.inference_mode():
        expected = theirs(**their_inputs(prompt, llm)).logits[0]
    first = prompt.places[0]
    for length in (1000, first + 5):  # the second one cuts through the first image or video
        torch.testing.assert_close(our_logits(llm, prompt, length), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("messages", CASES.values(), ids=CASES)
def test_greedy_tokens_through_the_engine(llm: LLM, theirs: Any, messages: list[dict[str, Any]]) -> None:
    prompt = llm.encode_chat(messages)
    with torch.inference_mode():
        expected = theirs.generate(
            **their_inputs(prompt, llm), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
        )
    answer = llm.chat(messages, SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True))
    assert list(answer.token_ids) == expected[0, len(prompt.ids) :].tolist()
    assert answer.stats.num_prompt == len(prompt.ids) > len(prompt.places)


def test_another_image_gives_other_logits(llm: LLM) -> None:
    """The positive control: from the image on everything changes, before it nothing does."""
    one, other = (llm.encode_chat(user("Look: ", image(png(seed=seed)), "What is it?")) for seed in (1, 2))
    assert one.ids == other.ids
    assert one.media[0].digest != other.media[0].digest
    first = one.places[0]
    before, after = (our_logits(llm, prompt, 1000) for prompt in (one, other))
    assert torch.equal(before[:first], after[:first])
    assert ((before[first:] - after[first:]).abs().amax(-1) > 0.01).all()
