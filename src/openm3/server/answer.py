"""From the service's events to a response, whole or streamed, in the words of an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from fastapi import Request, Response
from pydantic import BaseModel

from openm3.engine.fairness import Share
from openm3.engine.output import Compacted, Delta, FinishReason, Progress, Stats, TokenLogprob
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.errors import InputError
from openm3.server.callers import Caller, caller_of
from openm3.server.disconnect import EventStream, until_disconnect
from openm3.server.errors import ApiError, as_api_error
from openm3.server.meter import Reservation
from openm3.server.schema import response
from openm3.server.wording import Piece, Wording
from openm3.text import parse

if TYPE_CHECKING:
    from openm3.server.backend import Backend

_FINISH_REASONS: dict[FinishReason | None, response.FinishReason | None] = {
    None: None,
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
}


class Answering(Protocol):
    """The choices of one API request while they are generated, by the engine here or by an upstream."""

    @property
    def usage(self) -> response.Usage:
        """The tokens so far."""

    def pieces(self, caller: Caller) -> AsyncGenerator[Piece, None]:
        """The choices piece by piece, metered, the first one empty; closing it cancels what still runs."""


class Answer:
    """The choices of one API request while they are generated: one for each prompt and each of `params`.

    A conversation's answer is read in its parts; what follows plain tokens is text.

    Args:
        service: generates.
        prompts, params: what is asked.
        fields: as in `renamed`.
        one_call: a choice ends with its first tool call.
        progress: what has been read of the prompts is told too.
    """

    def __init__(
        self,
        service: Backend,
        prompts: Sequence[Prompt | Sequence[int]],
        params: Sequence[SamplingParams],
        fields: Mapping[str, str],
        *,
        one_call: bool = False,
        progress: bool = False,
    ) -> None:
        self._service, self._prompts, self._params = service, prompts, params
        self._fields, self._one_call, self._progress = fields, one_call, progress
        self._num_prompt = sum(len(prompt.ids if isinstance(prompt, Prompt) else prompt) for prompt in prompts)
        self._num_generated = self._num_thought = self._num_dropped = 0
        self._num_cached: dict[int, int] = {}  # by prompt: of the choice that was first to end

    @property
    def usage(self) -> response.Usage:
        """The tokens so far; how many of the prompts were known is told once a choice of each has ended."""
        return response.Usage(
            prompt_tokens=self._num_prompt,
            completion_tokens=self._num_generated,
            total_tokens=self._num_prompt + self._num_generated,
            prompt_tokens_details=response.PromptDetails(cached_tokens=sum(self._num_cached.values())),
            completion_tokens_details=response.CompletionDetails(reasoning_tokens=self._num_thought),
            dropped_tokens=self._num_dropped or None,
        )

    async def pieces(self, caller: Caller) -> AsyncGenerator[Piece, None]:
        """The choices piece by piece, metered; closing it cancels what still runs.

        Raises:
            InputError: a prompt can't be served; raised before its choices have a piece.
            ApiError: a limit of the caller forbids it, or the server stopped before the answer was complete.
        """
        num_choices, each_most = len(self._prompts) * len(self._params), self._params[0].max_tokens
        most = None if each_most is None else num_choices * each_most
        async with caller.reserve(self._service.llm.name, self._num_prompt, most, num_choices) as reservation:
            choices = self._choices(caller.share, reservation, num_choices)
            with renamed(self._fields):
                async with aclosing(_merge(choices)) as pieces:
                    async for piece in pieces:
                        yield piece

    def _choices(self, share: Share, reservation: Reservation, num_choices: int) -> list[AsyncGenerator[Piece, None]]:
        """Every choice; where the request names no limit none gets longer than its part of what was reserved."""
        params, most = self._params, reservation.answer_tokens
        if most is not None and params[0].max_tokens is None:
            params = [replace(each, max_tokens=most // num_choices) for each in params]
        asked = [(i, prompt, each) for i, prompt in enumerate(self._prompts) for each in params]
        return [self._choice(share, reservation, index, *each) for index, each in enumerate(asked)]

    async def _choice(
        self,
        share: Share,
        reservation: Reservation,
        index: int,
        prompt_index: int,
        prompt: Prompt | Sequence[int],
        params: SamplingParams,
    ) -> AsyncGenerator[Piece, None]:
        """One choice piece by piece; the first says only that its request was admitted."""
        reader, opened = _Reader(index, prompt, params, one_call=self._one_call), False
        async with aclosing(self._service.stream(prompt, params, share)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    self._count(prompt_index, event.token_id, event.stats, thought=reader.is_thinking)
                await reservation.spend(self._num_prompt, self._num_generated)
                if not opened:
                    opened = True
                    yield Piece(index)
                if isinstance(event, Progress) and self._progress:
                    yield Piece(index, progress=(event.num_read, event.num_prompt))
                if isinstance(event, Compacted):
                    self._num_dropped += sum(span.stop - span.start for span in event.dropped)
                if not isinstance(event, Delta):
                    continue
                if event.finish_reason is FinishReason.CANCELLED:
                    raise ApiError(503, "the server is stopping; the answer is incomplete", code="cancelled")
                piece = reader.read(event)
                if piece is not None:
                    yield piece
                    if piece.finish_reason:
                        return

    def _count(self, prompt_index: int, token_id: int | None, stats: Stats | None, *, thought: bool) -> None:
        if token_id is not None:
            self._num_generated += 1
            self._num_thought += thought
        if stats is not None:
            self._num_cached.setdefault(prompt_index, stats.num_cached)


class _Reader:
    """Reads the events of one choice: text, thinking and calls, with what belongs to their tokens."""

    def __init__(self, index: int, prompt: Prompt | Sequence[int], params: SamplingParams, *, one_call: bool) -> None:
        self._index, self._one_call = index, one_call
        self._parser = prompt.parser() if isinstance(prompt, Prompt) else None
        # Log probabilities of tokens whose text is still to come.
        self._held: list[TokenLogprob] | None = None if params.logprobs is None else []

    @property
    def is_thinking(self) -> bool:
        """Whether the next token is part of what is thought before the answer."""
        return self._parser is not None and self._parser.is_thinking

    def read(self, event: Delta) -> Piece | None:
        """What an event adds to the choice, if it is something."""
        if self._held is not None and event.logprob:
            self._held.append(event.logprob)
        parser, reason = self._parser, _FINISH_REASONS[event.finish_reason]
        parsed = parse.Parsed("", event.text, (), incomplete=False)
        if parser is not None:
            parts = parser.push(event.text)
            if reason:
                parts += parser.finish()
            parsed = parse.collect(self._cut(parts), incomplete=False)
            if (reason == "stop" and parser.num_calls) or (parsed.calls and self._one_call):
                reason = "tool_calls"
        if not (reason or parsed.answer or parsed.thinking or parsed.calls):
            return None
        held = self._held
        self._held = None if held is None else []
        return Piece(
            self._index,
            parsed.answer,
            None if held is None else tuple(held),
            reason,
            parsed.thinking,
            parsed.calls,
            event.evidence,
            event.stop,
        )

    def _cut(self, parts: list[parse.Part]) -> list[parse.Part]:
        """The parts up to the first call, where nothing may follow it."""
        ends = [i for i, part in enumerate(parts, start=1) if isinstance(part, parse.ToolCall)]
        return parts[: ends[0]] if ends and self._one_call else parts


@contextmanager
def renamed(fields: Mapping[str, str]) -> Iterator[None]:
    """Errors about what the engine knows under the first name speak of what the caller knows under the second.

    What lies within a field goes along: with `{"messages[0]": "system"}`, "messages[0].content" is "system.content".
    """
    try:
        yield
    except InputError as error:
        known = [name for name in fields if error.field == name or error.field.startswith((f"{name}.", f"{name}["))]
        if not known:
            raise
        name = max(known, key=len)
        raise type(error)(fields[name] + error.field[len(name) :], error.message) from error


async def respond(request: Request, answer: Answering, wording: Wording, *, stream: bool) -> Response:
    """The response to a request that asked for `answer`.

    Raises:
        InputError: a prompt can't be served.
        ApiError: a limit of the caller forbids it, or the server stopped before the answer was complete.
        ClientDisconnect: the client went away before the response began.
    """
    caller = caller_of(request)
    if not stream:
        body = await until_disconnect(request.receive, whole(answer, wording, caller))
        return Response(body.model_dump_json(), media_type="application/json")
    events = _events(answer, wording, caller, request.state.request_id)
    await until_disconnect(request.receive, _begin(events))
    return EventStream(events)


async def whole(answer: Answering, wording: Wording, caller: Caller) -> BaseModel:
    """The response that isn't streamed; it raises what `Answer.pieces` does."""
    choices: dict[int, list[Piece]] = {}
    async with aclosing(answer.pieces(caller)) as pieces:
        async for piece in pieces:
            choices.setdefault(piece.index, []).append(piece)
    return wording.whole([Piece.join(choices[index]) for index in sorted(choices)], answer.usage)


async def _events(answer: Answering, wording: Wording, caller: Caller, request_id: str) -> AsyncGenerator[bytes, None]:
    """Server-sent events. The first is empty: it says that the request was admitted.

    Until then an error is raised, because a status can still be sent; afterwards it is an event.
    """
    async with aclosing(answer.pieces(caller)) as pieces:
        piece: Piece | None = await anext(pieces)
        yield b""
        try:
            for event in wording.begin(answer.usage):
                yield event
            while piece:
                for event in wording.events(piece):
                    yield event
                piece = await anext(pieces, None)
            for event in wording.end(answer.usage):
                yield event
        except Exception as error:
            for event in wording.failure(as_api_error(error, request_id), request_id):
                yield event


async def _begin(events: AsyncGenerator[bytes, None]) -> None:
    await anext(events)


async def _merge(streams: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[Piece, None]:
    """The pieces of all streams as they come; closing it closes them."""
    arrived: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

    async def pump(stream: AsyncGenerator[Piece, None]) -> None:
        end: Exception | None = None
        try:
            async with aclosing(stream):
                async for piece in stream:
                    arrived.put_nowait(piece)
        except Exception as error:
            end = error
        arrived.put_nowait(end)

    pumps = [asyncio.create_task(pump(stream)) for stream in streams]
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
