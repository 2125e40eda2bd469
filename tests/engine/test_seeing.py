"""Requests with images on their way through the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.seeing_m3 import film, image, png, user, write_seeing_m3
from helpers.videos import video
from openm3.config import EngineConfig, ModelConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.errors import InputError
from openm3.model.cache import page_bytes
from openm3.model.vision_patches import Patches

PAGE = 16
LONG = SamplingParams(max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seeing_m3(tmp_path_factory.mktemp("models") / "m3")


def load(folder: Path, num_pages: int = 256) -> LLM:
    cache_bytes = num_pages * page_bytes(ModelConfig.from_folder(folder), PAGE, torch.float32)
    limits = EngineConfig(prefill_chunk=48, max_batch_tokens=128, max_context=512)
    return LLM(folder, replace(limits, dtype="float32", cache_bytes=cache_bytes))


def count_sights(llm: LLM, patch: pytest.MonkeyPatch) -> list[Sequence[Patches]]:
    """The media of every call of the vision part."""
    seen: list[Sequence[Patches]] = []
    see = llm.engine.runner.see

    def counting(media: Sequence[Patches]) -> Tensor:
        seen.append(media)
        return see(media)

    patch.setattr(llm.engine.runner, "see", counting)
    return seen


def test_seen_once_in_a_crowd_and_after_losing_its_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = load(folder)
    prompts = [
        alone.encode_chat(user("Look: ", image(png(64, 80, seed=1)), "Well?")),
        alone.encode_chat(user("Look: ", image(png(64, 80, seed=2)), "Well?")),
        alone.encode_chat([{"role": "user", "content": "No image."}]),
        alone.encode_chat(user(film(video(9)))),
    ]
    expected = [alone.generate([prompt], LONG)[0].token_ids for prompt in prompts]

    # Room for the first two prompts, and not for their answers.
    crowded = load(folder, 2 * -(-len(prompts[0].ids) // PAGE) + 1)
    seen = count_sights(crowded, monkeypatch)
    answers = crowded.generate(prompts, LONG)
    assert [answer.token_ids for answer in answers] == expected
    assert answers[1].stats.num_preempted > 0
    assert seen == [prompts[0].media, prompts[1].media, prompts[3].media]


def test_embeddings_live_as_long_as_the_request(folder: Path) -> None:
    llm = load(folder)
    prompt = llm.encode_chat(user(image(png(64, 80)), "Well?"))
    for cancelled in (False, True):
        request, events = llm.stream(prompt, LONG)
        assert request.media == prompt.media and request.seen_NC is None, "nothing is computed before its turn"
        next(events)
        assert request.seen_NC is not None and request.seen_NC.shape == (len(prompt.places), 96)
        assert not request.media, "the pixels are let go"
        if cancelled:
            llm.engine.cancel(request)
        else:
            list(events)
        assert request.seen_NC is None
    waiting = llm.engine.add(prompt, LONG)
    llm.engine.cancel(waiting)
    assert not waiting.media


def test_a_model_without_vision_part_says_so(tiny_model: Path) -> None:
    llm = LLM(tiny_model)
    assert not llm.can_see
    for part, kind in ((image(png()), "image_url"), (film(b""), "video_url")):
        with pytest.raises(InputError, match=f"'{kind}' is not for this model, which has no vision part") as error:
            llm.chat(user("see", part))
        assert error.value.field == "messages[0].content[1]"


def test_what_can_not_be_read_is_named(folder: Path) -> None:
    llm = load(folder)
    assert llm.can_see
    with pytest.raises(InputError, match="not a readable image") as error:
        llm.chat(user("see", image(b"no image")))
    assert error.value.field == "messages[0].content[1].image_url"
    with pytest.raises(InputError, match="images and videos take 5"):
        llm.chat(user(*[image(png(384, 384))] * 3))  # 576 tokens each; the window is 512


def test_a_known_image_is_not_seen_again_and_another_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm, text = load(folder), "What is to be seen here? " * 5
    first, other = (llm.encode_chat(user(image(png(64, 80, seed=seed)), text)) for seed in (1, 2))
    assert list(first.ids) == list(other.ids), "the tokens don't tell one image from another"
    expected = [load(folder).generate([prompt], LONG)[0].token_ids for prompt in (first, other)]
    seen = count_sights(llm, monkeypatch)
    answers = [llm.generate([prompt], LONG)[0] for prompt in (first, first, other)]
    assert [answer.token_ids for answer in answers] == [expected[0], expected[0], expected[1]]
    assert [answer.stats.num_cached > 0 for answer in answers] == [False, True, False]
    assert seen == [first.media, other.media]
