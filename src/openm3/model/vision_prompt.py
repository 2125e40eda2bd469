"""Conversations with images and videos: the tokens of the prompt, and what the vision part has to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openm3.errors import InputError, ModelError
from openm3.model.vision_config import VisionConfig
from openm3.model.vision_image import read_image
from openm3.model.vision_patches import Patches, patchify
from openm3.model.vision_resize import MAX_IMAGE_PIXELS, resize, target_size
from openm3.model.vision_source import Source
from openm3.model.vision_video import sample_video
from openm3.text import m3
from openm3.text.template import ChatTemplate, Message, encode_chat
from openm3.text.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class VisionPrompt:
    """A prompt that may hold images and videos.

    Attributes:
        ids: its tokens.
        media: its images and videos, in their order.
        places: where in `ids` the embeddings of `media` belong, one after the other; ascending.
    """

    ids: list[int]
    media: tuple[Patches, ...]
    places: list[int]


@dataclass(frozen=True, eq=False)
class Medium:
    """An image or a video as a prompt writes it: `text` stands in the place of the template's `marker`."""

    marker: str
    text: str
    patches: Patches


def encode_conversation(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    config: VisionConfig,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    max_tokens: int | None = None,
    **variables: Any,
) -> VisionPrompt:
    """The tokens of a conversation, as by `encode_chat`, with its images and videos.

    Parts of a message's content that are one: `{"type": "image", "image": source}`, `{"type": "image_url",
    "image_url": {"url": data URL, "detail": "auto"}}`, `{"type": "video", "video": source}`, `{"type": "video_url",
    "video_url": {"url": data URL, "fps": 1}}`. A source is a data URL, bytes or a `Path`.

    Args:
        tokenizer, template, tools, variables: as of `encode_chat`.
        config: the model's.
        messages: the conversation.
        max_tokens: images and videos that need more are refused before the next one is read.

    Raises:
        InputError: an image or video can't be read or is beyond a limit; the field is that of the part.
        ModelError: the tokenizer's ids for images and videos are not the configuration's.
    """
    media: list[Medium] = []
    plain = []
    for i, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, Sequence) and not isinstance(content, str):
            parts = []
            for j, part in enumerate(content):
                medium = read_part(part, config, f"messages[{i}].content[{j}]")
                if medium:
                    media.append(medium)
                    # The template sees that it is there; its content could be many megabytes.
                    part = {"type": part["type"].removesuffix("_url")}
                    _check_budget(media, max_tokens)
                parts.append(part)
            message = {**message, "content": parts}
        plain.append(message)
    texts = {name: [each.text for each in media if each.marker == name] for name in (m3.IMAGE, m3.VIDEO)}
    given = {name: each for name, each in texts.items() if each}
    ids = encode_chat(tokenizer, template, plain, tools=tools, media=given, **variables)
    patches = tuple(each.patches for each in media)
    places = [i for i, token in enumerate(ids) if token in (config.image_token_index, config.video_token_index)]
    if len(places) != sum(each.num_tokens for each in patches):
        raise ModelError(
            f"image_token_index {config.image_token_index} and video_token_index {config.video_token_index} are not "
            f"the tokenizer's {m3.IMAGE} and {m3.VIDEO}"
        )
    return VisionPrompt(ids, patches, places)


def read_part(part: Any, config: VisionConfig, field: str) -> Medium | None:
    """The image or the video that a part of a message's content is; None for other parts."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("image", "image_url"):
        source, options = _source(part, kind, {"detail"}, field)
        return image_medium(source, config, detail=options.get("detail", "auto"), field=f"{field}.{kind}")
    if kind in ("video", "video_url"):
        source, options = _source(part, kind, {"fps"}, field)
        fps = options.get("fps", 1.0)
        if isinstance(fps, bool) or not isinstance(fps, int | float):
            raise InputError(f"{field}.{kind}.fps", f"must be a number, got {fps!r}")
        return video_medium(source, config, fps=fps, field=f"{field}.{kind}")
    return None


def image_medium(source: Source, config: VisionConfig, *, detail: str = "auto", field: str = "image") -> Medium:
    """An image at the size that fits `detail`, one of `MAX_IMAGE_PIXELS`."""
    if detail not in MAX_IMAGE_PIXELS:
        raise InputError(f"{field}.detail", f"{detail!r} is none of {', '.join(MAX_IMAGE_PIXELS)}")
    pixels_CHW = read_image(source, field)
    size = target_size(
        *pixels_CHW.shape[1:], multiple=config.token_pixels, max_pixels=MAX_IMAGE_PIXELS[detail], field=field
    )
    patches = patchify(resize(pixels_CHW, *size)[None], config)
    return Medium(m3.IMAGE, m3.IMAGE_BEGIN + m3.IMAGE * patches.num_tokens + m3.IMAGE_END, patches)


def video_medium(source: Source, config: VisionConfig, *, fps: float = 1.0, field: str = "video") -> Medium:
    """A video's frames, in pairs of `temporal_patch_size`, each behind the time at which it is shown."""
    sampled = sample_video(source, config, fps=fps, field=field)
    patches = patchify(sampled.frames_TCHW, config)
    return Medium(m3.VIDEO, video_text(sampled.seconds[:: config.temporal_patch_size], patches.num_tokens), patches)


def video_text(seconds: Sequence[float], num_tokens: int) -> str:
    """How a prompt writes a video of patches that begin at these times and have `num_tokens` together."""
    tokens = m3.IMAGE_BEGIN + m3.VIDEO * (num_tokens // len(seconds)) + m3.IMAGE_END
    return "".join(f"]<]{time:.1f} seconds[>[{tokens}" for time in seconds)


def _source(part: Mapping[str, Any], kind: str, allowed: set[str], field: str) -> tuple[Source, Mapping[str, Any]]:
    """What is under the part's own key: a source, or an object with the source as its url, and options."""
    if unknown := part.keys() - {"type", kind}:
        raise InputError(f"{field}.{min(unknown)}", f"is not supported in a part of type {kind}")
    value = part.get(kind)
    options = dict(value) if isinstance(value, Mapping) else {"url": value}
    source = options.pop("url", None)
    if unknown := options.keys() - allowed:
        raise InputError(f"{field}.{kind}.{min(unknown)}", "is not supported")
    if not isinstance(source, bytes | Path | str):
        raise InputError(f"{field}.{kind}", "needs a data URL")
    return source, options


def _check_budget(media: Sequence[Medium], max_tokens: int | None) -> None:
    used = sum(medium.patches.num_tokens for medium in media)
    if max_tokens is not None and used > max_tokens:
        raise InputError("messages", f"images and videos take {used} tokens or more; there is room for {max_tokens}")
