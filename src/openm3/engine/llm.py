"""`LLM`: a model on this machine, for programs that wait for its answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openm3 import hub
from openm3.config import EngineConfig
from openm3.engine.engine import Engine
from openm3.engine.output import Completion, Delta, Event, FinishReason, TokenLogprob
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.engine.reader import Message, Reader
from openm3.engine.request import Request
from openm3.engine.workers import start_runner
from openm3.errors import ModelError
from openm3.model.aligned import AlignedCheckpoint
from openm3.model.branch import open_model
from openm3.model.identity import identity_of
from openm3.model.weights import Checkpoint, SafetensorsCheckpoint
from openm3.text.parse import Answer, Part, collect
from openm3.text.tokenizer import Tokenizer


class LLM(Reader):
    """A loaded model: tokenizer, chat template and engine.

        llm = LLM("default")
        [answer] = llm.generate(["def fibonacci(n):"], SamplingParams(max_tokens=64))
        print(answer.text)

    Args:
        model: a name or alias of `openm3 models`, a GGUF file, a folder in the Hugging Face layout, or a hub id.
            It must be on this disk already (`openm3 pull` fetches).
        config: the engine's; every default works.

    Attributes:
        branch: the index branch that a dense model was given, see `EngineConfig.index_branch`; None: it has none.
        engine: where requests run.

    Raises:
        ModelError: the model is not there or can't be used.
    """

    def __init__(self, model: str | Path = "default", config: EngineConfig | None = None) -> None:
        path = hub.find(str(model))
        checkpoint = open_model(path, config or EngineConfig())
        self.branch = checkpoint.sidecar if isinstance(checkpoint, AlignedCheckpoint) else None
        self.config = (config or EngineConfig()).for_model(checkpoint.config)
        self.model_config = checkpoint.config
        tokenizer = _tokenizer(checkpoint)
        if tokenizer.vocab_size > checkpoint.config.vocab_size:
            raise ModelError(
                f"{path}: the tokenizer has {tokenizer.vocab_size} tokens and the model only "
                f"{checkpoint.config.vocab_size}"
            )
        runner = start_runner(checkpoint, self.config)
        self.engine = Engine(runner, tokenizer, self.config)
        name, vision = path.stem if path.is_file() else path.name, runner.vision.config if runner.vision else None
        identity, size = identity_of(checkpoint), checkpoint.config.hidden_size
        super().__init__(name, identity, tokenizer, vision, runner.max_context, size)

    def generate(
        self, prompts: Sequence[str | Sequence[int] | Prompt], params: SamplingParams | None = None
    ) -> list[Completion]:
        """Answers many prompts at once, in their order. A prompt is text, token ids, or a conversation's."""
        requests = [self._add(prompt, params) for prompt in prompts]
        open_, deltas = {request.request_id for request in requests}, dict[str, list[Delta]]()
        try:
            while open_:
                for event in self.engine.step():
                    if isinstance(event, Delta):
                        deltas.setdefault(event.request_id, []).append(event)
                        if event.finish_reason is not None:
                            open_.discard(event.request_id)
        finally:
            for request in requests:
                self.engine.cancel(request)
        return [
            completion(request, deltas[request.request_id], parts_of(prompt, deltas[request.request_id]))
            for prompt, request in zip(prompts, requests, strict=True)
        ]

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking_mode: str | None = None,
    ) -> Completion:
        """The answer to a conversation; the arguments are those of `encode_chat`."""
        return self.generate([self.encode_chat(messages, tools=tools, thinking_mode=thinking_mode)], params)[0]

    def stream(
        self, prompt: str | Sequence[int] | Prompt, params: SamplingParams | None = None
    ) -> tuple[Request, Iterator[Event]]:
        """The request, and its events as they happen; closing the iterator cancels the request."""
        request = self._add(prompt, params)
        return request, self._events(request)

    def _events(self, request: Request) -> Iterator[Event]:
        try:
            while request.finish_reason is None:
                yield from (event for event in self.engine.step() if event.request_id == request.request_id)
        finally:
            self.engine.cancel(request)

    def _add(self, prompt: str | Sequence[int] | Prompt, params: SamplingParams | None) -> Request:
        return self.engine.add(self.encode(prompt) if isinstance(prompt, str) else prompt, params or SamplingParams())


def parts_of(prompt: object, deltas: Sequence[Delta]) -> list[Part]:
    """The parts of a whole answer: of a conversation's by its dialect, else one text."""
    texts = [delta.text for delta in deltas]
    if not isinstance(prompt, Prompt):
        return [Answer("".join(texts))]
    parser = prompt.parser()
    return [*(part for text in texts for part in parser.push(text)), *parser.finish()]


def completion(request: Request, deltas: Sequence[Delta], parts: Iterable[Part]) -> Completion:
    """A finished request as a whole answer, whose text was read as these parts."""
    parsed = collect(parts, incomplete=False)
    logprobs: list[TokenLogprob] = [delta.logprob for delta in deltas if delta.logprob is not None]
    return Completion(
        text=parsed.answer,
        token_ids=tuple(request.output_ids),
        finish_reason=request.finish_reason or FinishReason.CANCELLED,
        stats=request.stats(),
        logprobs=tuple(logprobs),
        thinking=parsed.thinking,
        tool_calls=parsed.calls,
        dropped=request.dropped(request.holes.spans),
        evidence=deltas[-1].evidence if deltas else None,
    )


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    if isinstance(checkpoint, AlignedCheckpoint):
        checkpoint = checkpoint.base
    if isinstance(checkpoint, SafetensorsCheckpoint):
        return Tokenizer.from_folder(checkpoint.path)
    try:
        return Tokenizer.from_gguf(checkpoint.metadata)
    except ModelError as error:
        raise ModelError(f"{checkpoint.path}: {error}") from error
