"""`LLM`: a model on this machine, for programs that wait for its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openm3 import hub
from openm3.config import EngineConfig
from openm3.engine.engine import Engine
from openm3.engine.output import Completion, Delta, Event, FinishReason, TokenLogprob
from openm3.engine.params import SamplingParams
from openm3.engine.request import Request
from openm3.engine.runner import Runner
from openm3.errors import ModelError
from openm3.model.weights import Checkpoint, SafetensorsCheckpoint, open_checkpoint
from openm3.text.template import ChatTemplate, encode_chat
from openm3.text.tokenizer import Tokenizer

Message = Mapping[str, Any]


class LLM:
    """A loaded model: tokenizer, chat template and engine.

        llm = LLM("default")
        [answer] = llm.generate(["def fibonacci(n):"], SamplingParams(max_tokens=64))
        print(answer.text)

    Args:
        model: a name or alias of `openm3 models`, a GGUF file, a folder in the Hugging Face layout, or a hub id.
            It must be on this disk already (`openm3 pull` fetches).
        config: the engine's; every default works.

    Attributes:
        name: what the model is called in answers.
        identity: 16 hex digits that differ for other weights files or configurations.
        engine: where requests run.

    Raises:
        ModelError: the model is not there or can't be used.
    """

    def __init__(self, model: str | Path = "default", config: EngineConfig | None = None) -> None:
        path = hub.find(str(model))
        checkpoint = open_checkpoint(path)
        self.config = (config or EngineConfig()).for_model(checkpoint.config)
        self.name = path.stem if path.is_file() else path.name
        self.model_config = checkpoint.config
        self.identity = _identity(checkpoint)
        self.tokenizer = _tokenizer(checkpoint)
        if self.tokenizer.vocab_size > checkpoint.config.vocab_size:
            raise ModelError(
                f"{path}: the tokenizer has {self.tokenizer.vocab_size} tokens and the model only "
                f"{checkpoint.config.vocab_size}"
            )
        self.template = ChatTemplate(self.tokenizer.chat_template) if self.tokenizer.chat_template else None
        self.engine = Engine(Runner(checkpoint, self.config), self.tokenizer, self.config)

    @property
    def max_context(self) -> int:
        """The most tokens of a prompt and its answer together."""
        return self.engine.runner.max_context

    def encode(self, text: str) -> list[int]:
        """Tokens of a plain prompt; names of control tokens in it are ordinary characters."""
        return self.tokenizer.encode(text, add_bos=self.tokenizer.adds_bos)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation, ready for the answer.

        Raises:
            InputError: no messages, or the model has no chat template, or the template refuses them.
        """
        return encode_chat(self.tokenizer, self.template, messages)

    def generate(
        self, prompts: Sequence[str | Sequence[int]], params: SamplingParams | None = None
    ) -> list[Completion]:
        """Answers many prompts at once, in their order. A prompt is text or token ids."""
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
        return [completion(request, deltas[request.request_id]) for request in requests]

    def chat(self, messages: Sequence[Message], params: SamplingParams | None = None) -> Completion:
        """The answer to a conversation."""
        return self.generate([self.encode_chat(messages)], params)[0]

    def stream(
        self, prompt: str | Sequence[int], params: SamplingParams | None = None
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

    def _add(self, prompt: str | Sequence[int], params: SamplingParams | None) -> Request:
        prompt_ids = self.encode(prompt) if isinstance(prompt, str) else prompt
        return self.engine.add(prompt_ids, params or SamplingParams())


def completion(request: Request, deltas: Sequence[Delta]) -> Completion:
    """A finished request as a whole answer."""
    logprobs: list[TokenLogprob] = [delta.logprob for delta in deltas if delta.logprob is not None]
    return Completion(
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(request.output_ids),
        finish_reason=request.finish_reason or FinishReason.CANCELLED,
        stats=request.stats(),
        logprobs=tuple(logprobs),
    )


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    if isinstance(checkpoint, SafetensorsCheckpoint):
        return Tokenizer.from_folder(checkpoint.path)
    try:
        return Tokenizer.from_gguf(checkpoint.metadata)
    except ModelError as error:
        raise ModelError(f"{checkpoint.path}: {error}") from error


def _identity(checkpoint: Checkpoint) -> str:
    """From the configuration and the sizes of the files: cheap, and different for every published model."""
    files = [checkpoint.path] if checkpoint.path.is_file() else sorted(checkpoint.path.glob("*.safetensors"))
    parts = [repr(checkpoint.config), *(f"{file.name} {file.stat().st_size}" for file in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
