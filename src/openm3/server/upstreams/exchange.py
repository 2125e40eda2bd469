"""One request at an upstream, and at another one where the first fails, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

import httpx
from pydantic_core import from_json

from openm3.server.callers import Caller
from openm3.server.errors import ApiError, as_api_error, shape_of
from openm3.server.record import Record
from openm3.server.upstreams.asked import Asked
from openm3.server.upstreams.told import Told
from openm3.server.upstreams.upstream import Upstream

if TYPE_CHECKING:
    from openm3.server.meter import Reservation
    from openm3.server.upstreams.relay import Relay

T = TypeVar("T")

_LONGEST_REASON = 500  # characters of an error that has no shape
_WORTH_ANOTHER = (429, 500, 502, 503, 504, 529)  # another upstream may do better


class Exchange:
    """An upstream that fails before the first byte of its response is left for another one.

    From then on the response is the client's: what goes wrong is told in it.

    Attributes:
        head: of the response, once `data` has begun.
    """

    head: httpx.Response

    def __init__(self, relay: Relay, asked: Asked, caller: Caller, headers: dict[str, str], request_id: str) -> None:
        self._relay, self._asked, self._caller = relay, asked, caller
        self._headers = {"content-type": "application/json", "accept-encoding": "identity", **headers}
        self._request_id = request_id
        self._began = asyncio.get_running_loop().time()
        self._metrics = relay.metrics.of(asked.model)
        theirs = relay.upstreams.theirs(asked.model)
        self._told = Told(theirs, asked.model, hides_usage=asked.adds_usage)

    async def data(self) -> AsyncGenerator[bytes, None]:
        """The response's body as it comes, events whole. The first part is empty: it says that `head` is there.

        Raises:
            ApiError: nobody can answer, or a limit forbids it.
        """
        asked = self._asked
        async with (
            self._caller.reserve(
                asked.model, asked.prompt_tokens, asked.answer_tokens, asked.num_answers
            ) as reservation,
            AsyncExitStack() as opened,
        ):
            opened.enter_context(self._relay.counted(asked.model))
            first, chunks = await self._open(opened, reservation.answer_tokens)
            yield b""
            passed = self._events if self.head.is_success and asked.is_stream else self._whole
            try:
                async for part in passed(first, chunks, reservation):
                    yield part
            finally:
                self._count()

    async def _open(self, opened: AsyncExitStack, answer_tokens: int | None) -> tuple[bytes, AsyncIterator[bytes]]:
        """The first part of a response and the others; `opened` closes it."""
        pool, failed = self._relay.upstreams, list[Upstream]()
        body = self._asked.body(pool.theirs(self._asked.model), answer_tokens)
        while True:
            async with AsyncExitStack() as attempt:
                upstream = await self._in_time(attempt.enter_async_context(pool.place(self._asked.model, failed)))
                failed.append(upstream)
                headers, record = dict(self._headers), Record.of_task()
                if record and record.trace:
                    attempt.enter_context(record.trace.asking(upstream.name, headers))
                request = pool.client.stream("POST", f"{upstream.url}{self._asked.path}", content=body, headers=headers)
                try:
                    self.head = await self._in_time(attempt.enter_async_context(request))
                    chunks = self.head.aiter_bytes()
                    first = await self._in_time(anext(chunks, b""))
                except httpx.TransportError as error:
                    upstream.went_down(str(error) or type(error).__name__)
                    if not pool.having(self._asked.model, failed):
                        raise ApiError(
                            502, "the server that should answer can't be reached", code="no_upstream"
                        ) from error
                    continue
                if self.head.status_code in _WORTH_ANOTHER and pool.having(self._asked.model, failed):
                    continue
                if record:
                    record.model, record.upstream = self._asked.model, upstream.name
                if self.head.is_success:
                    self._metrics.to_first_token.observe(asyncio.get_running_loop().time() - self._began)
                opened.push_async_exit(attempt.pop_all())
                return first, chunks

    async def _events(
        self, part: bytes, chunks: AsyncIterator[bytes], reservation: Reservation
    ) -> AsyncGenerator[bytes, None]:
        """The events of a stream; the last one is an error where it can't go on."""
        told = self._told
        try:
            while part:
                for event in told.events(part):
                    await reservation.spend(self._num_prompt, told.completion_tokens)
                    yield event
                part = await self._in_time(anext(chunks, b""))
            await reservation.spend(self._num_prompt, told.completion_tokens)
            if rest := told.rest():
                yield rest
        except Exception as error:
            if isinstance(error, httpx.TransportError | ValueError):
                error = ApiError(502, "the server that answers has broken off", code="upstream_failed")
            shape = shape_of(f"/v1{self._asked.path}")
            name = b"event: error\n" if shape == "anthropic" else b""
            yield name + b"data: " + as_api_error(error, self._request_id).body(shape, self._request_id) + b"\n\n"

    async def _whole(
        self, part: bytes, chunks: AsyncIterator[bytes], reservation: Reservation
    ) -> AsyncGenerator[bytes, None]:
        """The body of a response that isn't streamed; an error costs nothing."""
        parts = [part]
        try:
            while part:
                part = await self._in_time(anext(chunks, b""))
                parts.append(part)
        except httpx.TransportError as error:
            raise ApiError(502, "the server that answers has broken off", code="upstream_failed") from error
        whole = b"".join(parts)
        if not self.head.is_success:
            yield _refusal(self.head, whole)
            return
        body = self._told.whole(whole)
        await reservation.spend(self._num_prompt, self._told.completion_tokens)
        yield body

    @property
    def _num_prompt(self) -> int:
        return self._asked.prompt_tokens if self._told.prompt_tokens is None else self._told.prompt_tokens

    def _count(self) -> None:
        if not self.head.is_success:
            return
        told, metrics = self._told, self._metrics
        metrics.prompt_tokens.inc(self._num_prompt)
        metrics.generation_tokens.inc(told.completion_tokens)
        metrics.request.observe(asyncio.get_running_loop().time() - self._began)
        if record := Record.of_task():
            record.add_tokens(prompt=self._num_prompt, cached=told.cached_tokens, completion=told.completion_tokens)

    async def _in_time(self, work: Awaitable[T]) -> T:
        return await self._relay.in_time(work, self._began + self._relay.request_s)


def _refusal(head: httpx.Response, body: bytes) -> bytes:
    """An upstream's error, as it is.

    Raises:
        ApiError: it has no shape that clients know, as those of frameworks and proxies.
    """
    try:
        known = isinstance(fields := from_json(body), dict) and "error" in fields
    except ValueError:
        known = False
    if known:
        return body
    said = body.decode(errors="replace").strip()[:_LONGEST_REASON]
    headers = {"retry-after": head.headers["retry-after"]} if "retry-after" in head.headers else None
    raise ApiError(head.status_code, f"the upstream says: {said}", code="upstream_error", headers=headers)
