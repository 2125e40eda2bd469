"""M3's text conventions: the published ids of its special tokens, its markers, its chat template.

Sources: the published `added_tokens.json` and `chat_template.jinja` of MiniMax-M3, as its ports describe them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

MESSAGE_BEGIN, END, TEXT_BEGIN = "]~b]", "[e~[", "]~!b["
IMAGE, VIDEO = "]<]image[>[", "]<]video[>["
# Frames of a video stand between the markers of an image too; those of a video are unused.
IMAGE_BEGIN, IMAGE_END = "]<]start of image[>[", "]<]end of image[>["
THINK_BEGIN, THINK_END = "<mm:think>", "</mm:think>"
# Stands before every tag of a tool call. Whether it is a token of its own is not published.
NAMESPACE = "]<]minimax[>["

VOCAB_SIZE = 200_064
# The tokens whose ids are published; 200,000 ids of plain vocabulary come before them.
TOKEN_IDS: Mapping[str, int] = {
    "]!p~[": 200_000,
    MESSAGE_BEGIN: 200_019,
    END: 200_020,
    "]!d~[": 200_021,
    "]<]speech[>[": 200_024,
    IMAGE: 200_025,
    VIDEO: 200_026,
    IMAGE_BEGIN: 200_029,
    IMAGE_END: 200_030,
    "]<]start of video[>[": 200_031,
    "]<]end of video[>[": 200_032,
    "]<]vision pad[>[": 200_033,
    TEXT_BEGIN: 200_034,
    "<think>": 200_050,
    "</think>": 200_051,
    THINK_BEGIN: 200_059,
    THINK_END: 200_060,
}


def chat_template() -> str:
    """The Jinja source for a checkpoint that brings no `chat_template.jinja`; one that does uses its own.

    Its variables: `thinking_mode` ("enabled", "disabled" or "adaptive", the default) says how an answer begins.
    """
    return (files("openm3.text") / "templates" / "minimax_m3.jinja").read_text(encoding="utf-8")
