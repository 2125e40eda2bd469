from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.m3_processors import RECORD, VIDEOS
from helpers.m3_tokenizer import write_m3_tokenizer
from helpers.m3_vision import PUBLISHED
from helpers.videos import video
from openm3.errors import InputError, ModelError
from openm3.model.vision import Vision
from openm3.model.vision_config import VisionConfig
from openm3.model.vision_prompt import VisionPrompt, encode_conversation, image_medium, video_text
from openm3.text import m3
from openm3.text.template import ChatTemplate, encode_chat
from openm3.text.tokenizer import Tokenizer

CONFIG = VisionConfig.from_hf(PUBLISHED)
IMAGE_ID, VIDEO_ID = CONFIG.image_token_index, CONFIG.video_token_index


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_folder(write_m3_tokenizer(tmp_path_factory.mktemp("m3")))


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    assert tokenizer.chat_template
    return ChatTemplate(tokenizer.chat_template)


def png(width: int, height: int) -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, height), "green").save(out, "PNG")
    return out.getvalue()


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}]


def image(source: Any, **options: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": source, **options}}


def film(source: Any, **options: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": source, **options}}


def test_images_and_videos_become_tokens(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    messages = user("What ", image(png(56, 84)), film(video(9)), " and ", image(png(100, 30)), "?")
    prompt = encode_conversation(tokenizer, template, CONFIG, messages)
    begin, end = m3.IMAGE_BEGIN, m3.IMAGE_END
    assert tokenizer.decode(prompt.ids, skip_special=False).split("]~b]user\n")[1] == (
        f"What {begin}{m3.IMAGE * 6}{end}"
        f"]<]0.0 seconds[>[{begin}{m3.VIDEO * 4}{end}]<]2.0 seconds[>[{begin}{m3.VIDEO * 4}{end}"
        f" and {begin}{m3.IMAGE * 4}{end}?[e~[\n]~b]ai\n"
    )
    assert [each.num_tokens for each in prompt.media] == [6, 8, 4]
    assert [each.grids for each in prompt.media] == [((1, 6, 4),), ((2, 4, 4),), ((1, 2, 8),)]
    assert [prompt.ids[place] for place in prompt.places] == [IMAGE_ID] * 6 + [VIDEO_ID] * 8 + [IMAGE_ID] * 4


def test_videos_are_written_as_published() -> None:
    for (frames, *_), recorded in zip(VIDEOS, json.loads(RECORD.read_text())["videos"], strict=True):
        tokens = sum(t * h * w for t, h, w in recorded["grids"]) // 4
        # Recorded with every third frame of 4 a second.
        assert video_text([3 * i / 4 for i in range(0, frames, 2)], tokens) == recorded["text"]


def test_without_media_the_tokens_are_the_same(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    messages = [{"role": "system", "content": "Hi"}, *user("a ", m3.IMAGE), {"role": "assistant", "content": None}]
    prompt = encode_conversation(tokenizer, template, CONFIG, messages, thinking_mode="disabled")
    assert prompt.ids == encode_chat(tokenizer, template, messages, thinking_mode="disabled")
    assert prompt.media == ()
    assert prompt.places == []


def test_the_embeddings_fit_the_places(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    shape = {"hidden_size": 40, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1}
    vision = {**PUBLISHED["vision_config"], **shape, "projection_dim": 16}
    config = VisionConfig.from_hf(
        {**PUBLISHED, "vision_config": vision, "projector_hidden_size": 8, "text_config": {"hidden_size": 16}}
    )
    messages = user(image(png(56, 56)), film(video(30, fps=2)))
    prompt = encode_conversation(tokenizer, template, config, messages)
    assert len(prompt.media[1].grids) == 2  # more than vision_segment_max_frames in time
    with torch.inference_mode():
        eyes = Vision(config)
        embeddings = torch.cat([eyes.embed(each) for each in prompt.media])
    assert embeddings.shape == (len(prompt.places), 16)


def test_detail_and_fps(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    def tokens(part: dict[str, Any]) -> int:
        return len(encode_conversation(tokenizer, template, CONFIG, user(part)).places)

    large = png(1500, 1400)
    assert tokens(image(large)) == tokens(image(large, detail="low")) <= 576
    assert 576 < tokens(image(large, detail="default")) <= 1280
    assert tokens(image(large, detail="high")) == 50 * 54
    assert tokens(film(video(41))) == 4 * 6  # frames 0, 4, ..., 40, in pairs
    assert tokens(film(video(41), fps=2)) == 4 * 11
    assert tokens(film(video(41), fps=0.2)) == 4 * 2


def test_sources_that_programs_have(tokenizer: Tokenizer, template: ChatTemplate, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(56, 56))
    (tmp_path / "a.mp4").write_bytes(video(1))
    parts = [{"type": "image", "image": tmp_path / "a.png"}, {"type": "video", "video": tmp_path / "a.mp4"}]
    prompt = encode_conversation(tokenizer, template, CONFIG, user(*parts))
    assert [each.num_tokens for each in prompt.media] == [4, 4]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (image("x"), r"messages\[0\].content\[1\].image_url: give a data URL"),
        (image(b"x"), r"messages\[0\].content\[1\].image_url: not a readable image"),
        (image(png(2, 402)), r"content\[1\].image_url: 2 x 402 pixels: one side is more than 200"),
        (image(png(9, 9), detail="best"), r"image_url.detail: 'best' is none of auto, low, default, high"),
        (image(png(9, 9), max_long_side_pixel=9), r"image_url.max_long_side_pixel: is not supported"),
        (image(png(9, 9)) | {"cache": 1}, r"content\[1\].cache: is not supported"),
        ({"type": "image_url"}, r"image_url: needs a data URL"),
        (film(b"x"), r"content\[1\].video_url: not an mp4"),
        (film(video(1), fps="fast"), r"video_url.fps: must be a number, got 'fast'"),
        (film(video(1), fps=60), r"video_url.fps: must be from 0.2 to 5"),
        ({"type": "audio"}, r"a part of type audio is not supported"),
    ],
    ids=range(11),
)
def test_what_is_refused(tokenizer: Tokenizer, template: ChatTemplate, part: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode_conversation(tokenizer, template, CONFIG, user("see", part))


def test_too_many_are_refused_before_all_are_read(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    messages = user(*[image(png(56, 56))] * 3, image(b"never read"))
    with pytest.raises(InputError, match="images and videos take 12 tokens or more; there is room for 10"):
        encode_conversation(tokenizer, template, CONFIG, messages, max_tokens=10)


def test_ids_that_do_not_fit(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    other = VisionConfig.from_hf({**PUBLISHED, "image_token_index": 7})
    with pytest.raises(ModelError, match="image_token_index 7 and video_token_index 200026 are not the tokenizer's"):
        encode_conversation(tokenizer, template, other, user(image(png(56, 56))))


def test_a_prompt_holds_what_was_given() -> None:
    medium = image_medium(png(56, 84), CONFIG)
    prompt = VisionPrompt([IMAGE_ID], (medium.patches,), [0])
    assert prompt.media[0].digest == image_medium(png(56, 84), CONFIG).patches.digest
    assert prompt.media[0].digest != image_medium(png(84, 56), CONFIG).patches.digest
