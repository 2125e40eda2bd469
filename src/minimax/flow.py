"""Methods written once for both clients: a generator asks for responses, a client of either kind fetches them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import openai

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request: GET without a body, else POST; the answer is JSON, or `cast_to`'s model of it."""

    path: str
    body: dict[str, Any] | None = None
    cast_to: type[Any] = object


Flow = Generator[Ask, Any, R]


def run(client: openai.OpenAI, flow: Flow[R]) -> R:
    """What a flow returns. Errors of requests are raised in it, where it asked."""
    step = partial(next, flow)
    while True:
        try:
            ask = step()
        except StopIteration as end:
            result: R = end.value
            return result
        try:
            reply = (
                client.get(ask.path, cast_to=ask.cast_to)
                if ask.body is None
                else client.post(ask.path, body=ask.body, cast_to=ask.cast_to)
            )
            step = partial(flow.send, reply)
        except openai.OpenAIError as error:
            step = partial(flow.throw, error)


async def run_async(client: openai.AsyncOpenAI, flow: Flow[R]) -> R:
    """`run` on an asynchronous client."""
    step = partial(next, flow)
    while True:
        try:
            ask = step()
        except StopIteration as end:
            result: R = end.value
            return result
        try:
            reply = await (
                client.get(ask.path, cast_to=ask.cast_to)
                if ask.body is None
                else client.post(ask.path, body=ask.body, cast_to=ask.cast_to)
            )
            step = partial(flow.send, reply)
        except openai.OpenAIError as error:
            step = partial(flow.throw, error)
