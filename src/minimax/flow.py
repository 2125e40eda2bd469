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

    def send(self, client: openai.OpenAI | openai.AsyncOpenAI) -> Any:
        """Makes the request: the reply, or with an asynchronous client what to await for it."""
        if self.body is None:
            return client.get(self.path, cast_to=self.cast_to)
        return client.post(self.path, body=self.body, cast_to=self.cast_to)


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
            step = partial(flow.send, ask.send(client))
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
            step = partial(flow.send, await ask.send(client))
        except openai.OpenAIError as error:
            step = partial(flow.throw, error)
