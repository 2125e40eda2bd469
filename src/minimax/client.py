"""The `openai` package's clients, with the defaults of this API and its methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import httpx2
import openai
from openai.types import Completion, ImagesResponse

from minimax import methods
from minimax.batch import complete_all
from minimax.cache import Cache
from minimax.connection import DEFAULT_MODEL, MAX_CONNECTIONS, address, http_options, our_errors, refuse_both
from minimax.errors import of_status
from minimax.flow import run
from minimax.http import HttpClient
from minimax.limits import RateLimit
from minimax.methods import DEPTH, DOCSTRINGS, FRAMEWORK, Defaults, OnOverflow, Sampling
from minimax.stream import Callback, ChunkStream
from minimax.types import BatchResult, Code, Review, Text, TokenCount


class MiniMaxM3(openai.OpenAI):
    """A client of `openm3 serve`, of MiniMax's own API or of any server that speaks the OpenAI API.

        client = MiniMaxM3()
        client.chat.completions.create(model="default", messages=[{"role": "user", "content": "Hello"}])
        client.review_code(Path("app.py").read_text()).issues

    Every method beside those of `openai.OpenAI` takes the options of `Sampling` too, and raises the errors of
    `minimax.errors`, which are the `openai` package's.

    Args:
        api_key: default `MINIMAX_API_KEY`, else none is sent that means anything.
        base_url: default `MINIMAX_BASE_URL`, else `http://127.0.0.1:8000/v1`, where `openm3 serve` listens.
        model_version: the model that methods ask for.
        max_context: tokens of the model's window; asked of the server where it is needed and not given.
        max_connections, max_keepalive_connections: at the same time, and kept open; 100 and 20.
        limits: the most requests in some seconds; more wait.
        cache: a folder or a `Cache` for answers; None keeps none.
        transport: of `httpx2`; `minimax.testing` has some for tests.
        http_client: in place of the four above.
        options: what else `openai.OpenAI` takes, among it `timeout` in seconds and `max_retries`.
    """

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
        transport: httpx2.BaseTransport | None = None,
        http_client: httpx2.Client | None = None,
        **options: Any,
    ) -> None:
        ours = (max_connections, max_keepalive_connections, limits, cache, transport)
        refuse_both(http_client, *ours)
        self.defaults, self._at_once = Defaults(model_version, max_context), max_connections or MAX_CONNECTIONS
        http_client = http_client or HttpClient(**http_options(*ours))
        super().__init__(**address(api_key, base_url), http_client=http_client, **options)

    def complete(
        self,
        prompt: object,
        *,
        response_format: Mapping[str, Any] | None = None,
        json_encoder: Callable[[Any], Any] | None = None,
        **sampling: Unpack[Sampling],
    ) -> Completion:
        """A text completion: `.choices[0].text`.

        Args:
            prompt: a string; any other object is sent as JSON.
            response_format: as in a chat completion, for example `{"type": "json_object"}`.
            json_encoder: what `json.dumps` asks about parts of the prompt that it doesn't know (its `default`).
        """
        return run(self, methods.complete(self.defaults, prompt, response_format, json_encoder, sampling))

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
    ) -> ChunkStream: ...

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
    ) -> Code: ...

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
    ) -> Code | ChunkStream:
        """Code for a task, by `POST /code/generate`, with its files and receipts of what the server has checked.

        Args:
            stream: returns chunks as they arrive; the stream's `code` is the whole in the end.
            callback: is told (completed tokens, most tokens) as they arrive.
        """
        body = methods.generation(self.defaults, prompt, language, framework, style, include_tests, sampling)
        if not stream and callback is None:
            return run(self, methods.generate(body))
        streamed, kind = {**body, "stream": True}, openai.Stream[Any]
        source = self.post(methods.GENERATE, body=streamed, cast_to=object, stream=True, stream_cls=kind)
        chunks = ChunkStream(source, sampling.get("max_tokens"), callback)
        return chunks if stream else chunks.read()

    def analyze(
        self,
        context: str,
        task: str,
        *,
        analysis_depth: str = DEPTH,
        on_overflow: OnOverflow = "refuse",
        **sampling: Unpack[Sampling],
    ) -> Text:
        """The answer to a task about a text.

        Args:
            analysis_depth: in words, for example "quick" or "comprehensive".
            on_overflow: what happens to a text beyond the window: "refuse" raises `ContextOverflowError` with both
                numbers; "chunk" has it read in parts that overlap by a tenth, and the answers combined.
        """
        return run(self, methods.analyze(self.defaults, context, task, analysis_depth, on_overflow, sampling))

    def refactor(
        self,
        project_context: str,
        patterns: Sequence[str],
        target_style: str,
        *,
        on_overflow: OnOverflow = "refuse",
        **sampling: Unpack[Sampling],
    ) -> Code:
        """A project's files after a refactoring.

        A server that has a sandbox compares what the tests and functions of `load_project_files` did before and do
        after it, and gives `receipts` and a `verdict`; for other texts and elsewhere both say nothing.
        """
        asked = methods.refactor(self.defaults, project_context, patterns, target_style, on_overflow, sampling)
        return run(self, asked)

    def fix_bug(
        self,
        error_log: str,
        project_context: str,
        *,
        include_explanation: bool = True,
        on_overflow: OnOverflow = "refuse",
        **sampling: Unpack[Sampling],
    ) -> Code:
        """The cause of an error in words, and the files of its fix.

        A server that has a sandbox runs the tests of a project (of `load_project_files`), writes one that shows the
        error where none does, and gives `receipts` and a `verdict`; for other texts and elsewhere both say nothing.
        """
        asked = methods.fix_bug(self.defaults, error_log, project_context, include_explanation, on_overflow, sampling)
        return run(self, asked)

    def generate_tests(
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
        """Tests for some code, which they import from `module`.

        A server that runs them leaves out what fails, and gives `receipts` and a `verdict`; elsewhere both say nothing.
        """
        asked = methods.generate_tests(
            self.defaults, code, framework, module, include_edge_cases, include_mocking, coverage_target, sampling
        )
        return run(self, asked)

    def document_code(
        self,
        code: str,
        *,
        style: str = DOCSTRINGS,
        include_examples: bool = False,
        explain_logic: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Code:
        """The same code with docstrings, in `.code`; with `explain_logic` an explanation before it, in `.content`."""
        asked = methods.document_code(self.defaults, code, style, include_examples, explain_logic, sampling)
        return run(self, asked)

    def review_code(
        self,
        code: str | Mapping[str, str],
        *,
        language: str | None = None,
        standards: Sequence[str] = (),
        model: str | None = None,
    ) -> Review:
        """What is wrong with code, by `POST /code/review`: one text (Python unless `language` says), or texts by path.

        `standards` are the server's: "pep8", "security", "performance" and others that its error names.
        """
        return run(self, methods.review_code(self.defaults, code, language, standards, model))

    def batch_complete(self, tasks: Iterable[Mapping[str, Any]]) -> list[BatchResult]:
        """`complete` with the arguments of each task, as many at once as there are connections.

        Results are in the order of the tasks; a task that failed has a `Failure`, whose `choices` raise its error.
        """
        return complete_all(self, tasks, self._at_once)

    def embed(
        self, texts: str | Sequence[str], *, model: str | None = None, dimensions: int | None = None
    ) -> list[list[float]]:
        """A vector for each text, by `POST /embeddings`."""
        return run(self, methods.embed(self.defaults, texts, model, dimensions))

    def generate_image(
        self, prompt: str, *, model: str | None = None, size: str = "1024x1024", n: int = 1
    ) -> ImagesResponse:
        """Images, base64 in `.data[0].b64_json`, by `POST /images/generations`."""
        return run(self, methods.generate_image(prompt, model, size, n))

    def count_tokens(self, text: str) -> TokenCount:
        """Tokens of a text, exact where the server counts."""
        return run(self, methods.count_tokens(self.defaults, text))

    def usage(self) -> dict[str, Any]:
        """What the key has used, by `GET /usage`."""
        return run(self, methods.usage())

    def request(self, *args: Any, **options: Any) -> Any:
        """What every call of the package goes through."""
        with our_errors():
            return super().request(*args, **options)

    def copy(self, **options: Any) -> Any:
        """The same client with other options."""
        own = {"model_version": self.defaults.model, "max_context": self.defaults.max_context}
        return super().copy(_extra_kwargs={**own, **options.pop("_extra_kwargs", {})}, **options)

    with_options = copy

    def _make_status_error(self, err_msg: str, *, body: object, response: httpx2.Response) -> openai.APIStatusError:
        return of_status(super()._make_status_error(err_msg, body=body, response=response))
