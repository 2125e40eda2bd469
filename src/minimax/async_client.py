"""The asynchronous client, method for method what `client.py` has."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import httpx2
import openai
from openai.types import Completion, ImagesResponse

from minimax import methods
from minimax.batch import complete_all_async
from minimax.cache import Cache
from minimax.connection import DEFAULT_MODEL, MAX_CONNECTIONS, address, http_options, our_errors, refuse_both
from minimax.errors import of_status
from minimax.flow import run_async
from minimax.http import AsyncHttpClient
from minimax.limits import RateLimit
from minimax.methods import DEPTH, DOCSTRINGS, FRAMEWORK, Defaults, OnOverflow, Sampling
from minimax.stream import AsyncChunkStream, Callback
from minimax.types import BatchResult, Code, Review, Text, TokenCount


class AsyncMiniMaxM3(openai.AsyncOpenAI):
    """`MiniMaxM3` for asyncio, with the same arguments and methods. `generate(stream=True)` is not awaited."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | httpx2.URL | None = None,
        model_version: str = DEFAULT_MODEL,
        max_context: int | None = None,
        max_connections: int | None = None,
        max_keepalive_connections: int | None = None,
        limits: RateLimit | None = None,
        cache: Cache | str | Path | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        http_client: httpx2.AsyncClient | None = None,
        **options: Any,
    ) -> None:
        ours = (max_connections, max_keepalive_connections, limits, cache, transport)
        refuse_both(http_client, *ours)
        self.defaults, self._at_once = Defaults(model_version, max_context), max_connections or MAX_CONNECTIONS
        http_client = http_client or AsyncHttpClient(**http_options(*ours))
        super().__init__(**address(api_key, base_url), http_client=http_client, **options)

    async def complete(
        self,
        prompt: object,
        *,
        response_format: Mapping[str, Any] | None = None,
        json_encoder: Callable[[Any], Any] | None = None,
        **sampling: Unpack[Sampling],
    ) -> Completion:
        """See `MiniMaxM3.complete`."""
        return await run_async(self, methods.complete(self.defaults, prompt, response_format, json_encoder, sampling))

    @overload
    def generate(
        self,
        prompt: str,
        *,
        stream: Literal[True],
        language: str | None = None,
        framework: str | None = None,
        style: str | None = None,
        include_tests: bool = False,
        callback: Callback | None = None,
        **sampling: Unpack[Sampling],
    ) -> AsyncChunkStream: ...

    @overload
    def generate(
        self,
        prompt: str,
        *,
        stream: Literal[False] = False,
        language: str | None = None,
        framework: str | None = None,
        style: str | None = None,
        include_tests: bool = False,
        callback: Callback | None = None,
        **sampling: Unpack[Sampling],
    ) -> Coroutine[Any, Any, Code]: ...

    def generate(
        self,
        prompt: str,
        *,
        language: str | None = None,
        framework: str | None = None,
        style: str | None = None,
        include_tests: bool = False,
        stream: bool = False,
        callback: Callback | None = None,
        **sampling: Unpack[Sampling],
    ) -> Coroutine[Any, Any, Code] | AsyncChunkStream:
        """See `MiniMaxM3.generate`: `async for` over the stream, `await` else."""
        body = methods.generation(self.defaults, prompt, language, framework, style, include_tests, sampling)
        if not stream and callback is None:
            return run_async(self, methods.generate(body))
        streamed, kind = {**body, "stream": True}, openai.AsyncStream[Any]
        source = partial(self.post, methods.GENERATE, body=streamed, cast_to=object, stream=True, stream_cls=kind)
        chunks = AsyncChunkStream(source, sampling.get("max_tokens"), callback)
        return chunks if stream else chunks.read()

    async def analyze(
        self,
        context: str,
        task: str,
        *,
        analysis_depth: str = DEPTH,
        on_overflow: OnOverflow = "refuse",
        **sampling: Unpack[Sampling],
    ) -> Text:
        """See `MiniMaxM3.analyze`."""
        return await run_async(
            self, methods.analyze(self.defaults, context, task, analysis_depth, on_overflow, sampling)
        )

    async def refactor(
        self,
        project_context: str,
        patterns: Sequence[str],
        target_style: str,
        *,
        on_overflow: OnOverflow = "refuse",
        **sampling: Unpack[Sampling],
    ) -> Code:
        """See `MiniMaxM3.refactor`."""
        asked = methods.refactor(self.defaults, project_context, patterns, target_style, on_overflow, sampling)
        return await run_async(self, asked)

    async def fix_bug(
        self,
        error_log: str,
        project_context: str,
        *,
        include_explanation: bool = True,
        on_overflow: OnOverflow = "refuse",
        **sampling: Unpack[Sampling],
    ) -> Code:
        """See `MiniMaxM3.fix_bug`."""
        asked = methods.fix_bug(self.defaults, error_log, project_context, include_explanation, on_overflow, sampling)
        return await run_async(self, asked)

    async def generate_tests(
        self,
        code: str,
        *,
        framework: str = FRAMEWORK,
        module: str = "code",
        include_edge_cases: bool = True,
        include_mocking: bool = False,
        coverage_target: int = 90,
        **sampling: Unpack[Sampling],
    ) -> Code:
        """See `MiniMaxM3.generate_tests`."""
        asked = methods.generate_tests(
            self.defaults, code, framework, module, include_edge_cases, include_mocking, coverage_target, sampling
        )
        return await run_async(self, asked)

    async def document_code(
        self,
        code: str,
        *,
        style: str = DOCSTRINGS,
        include_examples: bool = False,
        explain_logic: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Code:
        """See `MiniMaxM3.document_code`."""
        asked = methods.document_code(self.defaults, code, style, include_examples, explain_logic, sampling)
        return await run_async(self, asked)

    async def review_code(
        self,
        code: str | Mapping[str, str],
        *,
        language: str | None = None,
        standards: Sequence[str] = (),
        model: str | None = None,
    ) -> Review:
        """See `MiniMaxM3.review_code`."""
        return await run_async(self, methods.review_code(self.defaults, code, language, standards, model))

    async def batch_complete(self, tasks: Iterable[Mapping[str, Any]]) -> list[BatchResult]:
        """See `MiniMaxM3.batch_complete`."""
        return await complete_all_async(self, tasks, self._at_once)

    async def embed(
        self, texts: str | Sequence[str], *, model: str | None = None, dimensions: int | None = None
    ) -> list[list[float]]:
        """See `MiniMaxM3.embed`."""
        return await run_async(self, methods.embed(self.defaults, texts, model, dimensions))

    async def generate_image(
        self, prompt: str, *, model: str | None = None, size: str = "1024x1024", n: int = 1
    ) -> ImagesResponse:
        """See `MiniMaxM3.generate_image`."""
        return await run_async(self, methods.generate_image(prompt, model, size, n))

    async def count_tokens(self, text: str) -> TokenCount:
        """See `MiniMaxM3.count_tokens`."""
        return await run_async(self, methods.count_tokens(self.defaults, text))

    async def usage(self) -> dict[str, Any]:
        """See `MiniMaxM3.usage`."""
        return await run_async(self, methods.usage())

    async def request(self, *args: Any, **options: Any) -> Any:
        """What every call of the package goes through."""
        with our_errors():
            return await super().request(*args, **options)

    def copy(self, **options: Any) -> Any:
        """The same client with other options."""
        own = {"model_version": self.defaults.model, "max_context": self.defaults.max_context}
        return super().copy(_extra_kwargs={**own, **options.pop("_extra_kwargs", {})}, **options)

    with_options = copy

    def _make_status_error(self, err_msg: str, *, body: object, response: httpx2.Response) -> openai.APIStatusError:
        return of_status(super()._make_status_error(err_msg, body=body, response=response))
