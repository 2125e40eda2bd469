"""Answers while they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import openai

from minimax.errors import StreamCutError
from minimax.methods import generated
from minimax.types import Chunk, Code

Callback = Callable[[int, int], object]


class Told:
    """What the stream of a code generation has told so far."""

    def __init__(self, total_tokens: int | None, callback: Callback | None) -> None:
        self.code: Code | None = None
        self._text, self._count, self._total, self._callback = "", 0, total_tokens, callback

    def take(self, event: Any) -> Chunk | None:
        """Reads an event, and says how far the answer is; the last event has no new text.

        A piece of text counts as a token until the server tells the number in its last event.
        """
        content = event["content"]
        if is_last := event.get("object") == "code.generation":
            self.code = generated(event)
            self._count = self.code.usage.completion_tokens
        else:
            self._text += content
            self._count += 1
        if self._callback is not None:
            self._callback(self._count, max(self._total or 0, self._count))
        return None if is_last else Chunk(content=content)

    def cut(self, response: Any) -> StreamCutError:
        """What is raised when no more comes before the last event."""
        return StreamCutError(self._text, response.request, response.headers.get("x-request-id"))


class ChunkStream:
    """The chunks of an answer; closing it, or leaving its `with`, ends the request.

    Raises:
        StreamCutError: while iterating, when the stream ends before the answer does; it has the text so far.
    """

    def __init__(
        self, source: openai.Stream[Any], total_tokens: int | None = None, callback: Callback | None = None
    ) -> None:
        self._source, self._told = source, Told(total_tokens, callback)

    @property
    def code(self) -> Code | None:
        """The whole answer with its files and receipts, once it has ended."""
        return self._told.code

    def __iter__(self) -> Iterator[Chunk]:
        try:
            for event in self._source:
                if (chunk := self._told.take(event)) is not None:
                    yield chunk
        except openai.APITimeoutError:
            raise
        except openai.APIConnectionError as error:
            raise self._told.cut(self._source.response) from error
        if self.code is None:
            raise self._told.cut(self._source.response)

    def __enter__(self) -> ChunkStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the request."""
        self._source.close()

    def read(self) -> Code:
        """Everything, once the answer has ended."""
        for _ in self:
            pass
        assert self.code is not None, "else it was cut"
        return self.code


class AsyncChunkStream:
    """`ChunkStream` for asyncio; it may be iterated without being awaited first."""

    def __init__(
        self,
        open_: Callable[[], Awaitable[openai.AsyncStream[Any]]],
        total_tokens: int | None = None,
        callback: Callback | None = None,
    ) -> None:
        self._open, self._told = open_, Told(total_tokens, callback)
        self._source: openai.AsyncStream[Any] | None = None

    @property
    def code(self) -> Code | None:
        """The whole answer with its files and receipts, once it has ended."""
        return self._told.code

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        source = self._source = await self._open()
        try:
            async for event in source:
                if (chunk := self._told.take(event)) is not None:
                    yield chunk
        except openai.APITimeoutError:
            raise
        except openai.APIConnectionError as error:
            raise self._told.cut(source.response) from error
        if self.code is None:
            raise self._told.cut(source.response)

    async def __aenter__(self) -> AsyncChunkStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the request."""
        if self._source is not None:
            await self._source.close()

    async def read(self) -> Code:
        """Everything, once the answer has ended."""
        async for _ in self:
            pass
        assert self.code is not None, "else it was cut"
        return self.code
