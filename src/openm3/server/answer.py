"""From the service's events to a response, whole or streamed, in the words of an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from fastapi import Request, Response
from pydantic import BaseModel

from openm3.engine.output import Compacted, Delta, Event, FinishReason, TokenLogprob
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.errors import InputError
from openm3.server.disconnect import EventStream, until_disconnect
from openm3.server.errors import ApiError, as_api_error
from openm3.server.schema import response
from openm3.server.schema.request import GenerationRequest
from openm3.server.wording import Piece, Wording
from openm3.text import parse

if TYPE_CHECKING:
    from openm3.engine.service import Service

_FINISH_REASONS: dict[FinishReason | None, response.FinishReason | None] = {
    None: None,
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
}


class Answer:
    """The choices of one API request while they are generated: one for each prompt and each of `params`.

    A conversation's answer is read in its parts; what follows plain tokens is text.

    Args:
        service: generates.
        prompts, params: what is asked.
        fields: as in `renamed`.
    """

    def __init__(
        self,
        service: Service,
        prompts: Sequence[Prompt | Sequence[int]],
        params: Sequence[SamplingParams],
        fields: Mapping[str, str],
    ) -> None:
        self._fields = fields
        self._streams = [service.stream(prompt, each) for prompt in prompts for each in params]
        self._parsers = [prompt.parser() if isinstance(prompt, Prompt) else None for prompt in prompts for _ in params]
        self._with_logprobs = params[0].logprobs is not None
        self._num_prompt = sum(len(prompt.ids if isinstance(prompt, Prompt) else prompt) for prompt in prompts)
        self._num_generated = self._num_dropped = 0

    @property
    def usage(self) -> response.Usage:
        """The tokens so far."""
        return response.Usage(
            prompt_tokens=self._num_prompt,
            completion_tokens=self._num_generated,
            total_tokens=self._num_prompt + self._num_generated,
            dropped_tokens=self._num_dropped or None,
        )

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The choices piece by piece; closing it cancels what still runs.

        Raises:
            InputError: a prompt can't be served; raised before its choices have a piece.
            ApiError: the server stopped before the answer was complete.
        """
        # Log probabilities of tokens whose text is still to come, for every choice that was opened.
        held: dict[int, list[TokenLogprob]] = {}
        with renamed(self._fields):
            async with aclosing(_merge(self._streams)) as events:
                async for index, event in events:
                    if index not in held:
                        held[index] = []
                        yield Piece(index)
                    if isinstance(event, Compacted):
                        self._num_dropped += sum(span.stop - span.start for span in event.dropped)
                    if not isinstance(event, Delta):
                        continue
                    if event.finish_reason is FinishReason.CANCELLED:
                        raise ApiError(503, "the server is stopping; the answer is incomplete", code="cancelled")
                    self._num_generated += event.token_id is not None
                    if event.logprob:
                        held[index].append(event.logprob)
                    piece = self._piece(index, event)
                    if not piece.is_opening:
                        logprobs = tuple(held[index]) if self._with_logprobs else None
                        held[index].clear()
                        yield replace(piece, logprobs=logprobs, evidence=event.evidence)

    def _piece(self, index: int, event: Delta) -> Piece:
        """What an event adds to its choice; an opening piece where that is nothing yet."""
        parser, reason = self._parsers[index], _FINISH_REASONS[event.finish_reason]
        if parser is None:
            return Piece(index, event.text, None, reason)
        parts = parser.push(event.text)
        if reason:
            parts += parser.finish()
        if reason == "stop" and parser.num_calls:
            reason = "tool_calls"
        parsed = parse.collect(parts, incomplete=False)
        return Piece(index, parsed.answer, None, reason, parsed.thinking, parsed.calls)


@contextmanager
def renamed(fields: Mapping[str, str]) -> Iterator[None]:
    """Errors about what the engine knows under the first name speak of what the caller knows under the second."""
    try:
        yield
    except InputError as error:
        raise InputError(fields.get(error.field, error.field), error.message) from error


async def respond(request: Request, asked: GenerationRequest, answer: Answer, wording: Wording) -> Response:
    """The response to a request that asked for `answer`.

    Raises:
        InputError: a prompt can't be served.
        ApiError: the server stopped before the answer was complete.
        ClientDisconnect: the client went away before the response began.
    """
    if not asked.stream:
        body = await until_disconnect(request.receive, whole(answer, wording))
        return Response(body.model_dump_json(), media_type="application/json")
    events = _events(answer, wording, asked.include_usage, request.state.request_id)
    await until_disconnect(request.receive, _begin(events))
    return EventStream(events)


async def whole(answer: Answer, wording: Wording) -> BaseModel:
    """The response that isn't streamed; it raises what `Answer.pieces` does."""
    choices: dict[int, list[Piece]] = {}
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            choices.setdefault(piece.index, []).append(piece)
    return wording.whole([Piece.join(choices[index]) for index in sorted(choices)], answer.usage)


async def _events(
    answer: Answer, wording: Wording, include_usage: bool, request_id: str
) -> AsyncGenerator[bytes, None]:
    """Server-sent events. The first is empty: it says that the request was admitted.

    Until then an error is raised, because a status can still be sent; afterwards it is an event.
    """
    async with aclosing(answer.pieces()) as pieces:
        piece: Piece | None = await anext(pieces)
        yield b""
        try:
            while piece:
                if chunk := wording.chunk(piece):
                    yield _event(chunk.model_dump_json().encode())
                piece = await anext(pieces, None)
            if include_usage:
                yield _event(wording.usage_chunk(answer.usage).model_dump_json().encode())
            yield _event(b"[DONE]")
        except Exception as error:
            yield _event(as_api_error(error, request_id).body())


async def _begin(events: AsyncGenerator[bytes, None]) -> None:
    await anext(events)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


async def _merge(streams: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of all streams as they come, with the index of the stream; closing it closes them."""
    arrived: asyncio.Queue[tuple[int, Event] | Exception | None] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[Event, None]) -> None:
        end: Exception | None = None
        try:
            async with aclosing(stream):
                async for event in stream:
                    arrived.put_nowait((index, event))
        except Exception as error:
            end = error
        arrived.put_nowait(end)

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        num_running = len(pumps)
        while num_running:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_running -= 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.wait(pumps)
