"""Asks a model which of two outcomes is right, in both orders: only an answer that doesn't follow the order counts."""

from __future__ import annotations

import asyncio
import re
from typing import Literal

from minimax_code.model import Message, Model, Reply, Request, Usage
from minimax_code.skills.prompt import prompt_of

_LETTER = re.compile(r"\b([AB])\b")
_TOKENS = 256  # room to think before the letter


async def prefer(model: Model, task: str, call: str, a: str, b: str) -> tuple[Literal["a", "b"] | None, Usage]:
    """Which outcome of a call the model takes for right; None where it says nothing, or the order decides.

    Raises:
        ModelError: as of `Model.reply`.
    """
    return await prefer_of(model, "judge", (a, b), task=task, call=call)


async def prefer_of(
    model: Model, prompt: str, pair: tuple[str, str], **values: str
) -> tuple[Literal["a", "b"] | None, Usage]:
    """Which of a pair the model prefers, by a prompt with `{a}` and `{b}` that asks for a letter."""
    a, b = pair
    asked = (prompt_of(prompt, a=a, b=b, **values), prompt_of(prompt, a=b, b=a, **values))
    forth, back = await asyncio.gather(*(_ask(model, content) for content in asked))
    letters, usage = (_letter(forth), _letter(back)), forth.usage + back.usage
    if letters == ("A", "B"):
        return "a", usage
    return ("b" if letters == ("B", "A") else None), usage


async def _ask(model: Model, content: str) -> Reply:
    return await model.reply(
        Request(messages=(Message(role="user", content=content),), max_tokens=_TOKENS, temperature=0.0)
    )


def _letter(reply: Reply) -> str:
    """The last letter that stands alone: whoever thinks aloud ends with the answer."""
    found = _LETTER.findall(reply.content)
    return found[-1] if found else ""
