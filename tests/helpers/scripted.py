"""`ScriptedService`: a service that says what a test wrote, token by token, without a model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from openm3.engine.fairness import ALONE, Share
from openm3.engine.output import Delta, Event, FinishReason, Progress, Stats, TokenLogprob
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.errors import InputError, WindowError


@dataclass(frozen=True)
class ScriptedStatus:
    """The fields of `openm3.engine.service.ServiceStatus`, which would bring torch with it."""

    running: int
    waiting: int = 0
    free_pages: int = 8
    num_pages: int = 8
    replicas: tuple[Any, ...] = ()


@dataclass(frozen=True)
class ScriptedLLM:
    """A model whose tokens are the bytes of a text."""

    name: str = "scripted"
    identity: str = "0123456789abcdef"
    max_context: int = 1000
    has_thinking_modes: bool = False
    can_see: bool = False
    hidden_size: int = 8

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking_mode: str | None = None,
    ) -> Prompt:
        """A model that neither sees nor calls nor thinks."""
        for name, value in (("tools", tools), ("thinking_mode", thinking_mode)):
            if value:
                raise InputError(name, "is not for this model")
        lines = []
        for i, message in enumerate(messages):
            if message["role"] == "tool":
                raise InputError(f"messages[{i}].role", "'tool' is not for this model")
            content = message["content"]
            for j, part in enumerate(content if isinstance(content, list) else ()):
                if part["type"] != "text":
                    raise InputError(f"messages[{i}].content[{j}]", f"{part['type']!r} is not for this model")
            text = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
            lines.append(f"<{message['role']}>{text}\n")
        return Prompt(self.encode("".join(lines)))


@dataclass
class ScriptedService:
    """Keeps the contract of `openm3.engine.service.Service`.

    Attributes:
        tokens: what every answer consists of; a stop string cuts it, `max_tokens` too.
        delay_s: before each token.
        fails_after: tokens after which the engine breaks; None: never.
        llm: what the service serves.
        requests: every admitted prompt, with its parameters.
        shares: whose they were.
        num_cancelled: requests whose stream was closed before its end.
    """

    tokens: Sequence[str | bytes] = ("Hello", ",", " world", "!")
    delay_s: float = 0.0
    fails_after: int | None = None
    llm: ScriptedLLM = ScriptedLLM()
    requests: list[tuple[list[int], SamplingParams]] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    num_cancelled: int = 0
    _num_running: int = 0
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        self._closing.clear()

    async def aclose(self) -> None:
        self._closing.set()

    def status(self) -> ScriptedStatus:
        return ScriptedStatus(running=self._num_running)

    async def stream(
        self, prompt: Prompt | Sequence[int], params: SamplingParams, share: Share = ALONE
    ) -> AsyncGenerator[Event, None]:
        prompt_ids = prompt.ids if isinstance(prompt, Prompt) else prompt
        if not 0 < len(prompt_ids) < self.llm.max_context:
            raise WindowError("prompt", f"has {len(prompt_ids)} tokens; the window is {self.llm.max_context}")
        request_id = str(len(self.requests))
        self.requests.append((list(prompt_ids), params))
        self.shares.append(share)
        self._num_running += 1
        ended = False
        try:
            await asyncio.sleep(0)  # as long as an engine's thread takes at the least
            yield Progress(request_id, len(prompt_ids), len(prompt_ids))
            if params.pool:
                ended = True
                state = np.bincount(np.array(prompt_ids) % self.llm.hidden_size, minlength=self.llm.hidden_size)
                stats = _stats(len(prompt_ids), 0)
                yield Delta(request_id, "", None, FinishReason.STOP, state=state.astype(np.float32), stats=stats)
                return
            async for delta in self._answer(request_id, len(prompt_ids), params):
                ended = delta.finish_reason is not None
                yield delta
        finally:
            self._num_running -= 1
            self.num_cancelled += not ended

    async def _answer(self, request_id: str, num_prompt: int, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        said = b""
        limit = params.max_tokens or math.inf
        for place, token in enumerate(self.tokens, start=1):
            if await self._is_closed_within(self.delay_s):
                yield Delta(request_id, "", finish_reason=FinishReason.CANCELLED)
                return
            if self.fails_after is not None and place > self.fails_after:
                raise RuntimeError("a secret of the engine")
            raw = token.encode() if isinstance(token, str) else token
            before, said = said.decode(errors="ignore"), said + raw
            text = said.decode(errors="ignore")
            stops = [text.index(stop) for stop in params.stop if stop in text]
            reason = None
            if stops:
                text, reason = text[: min(stops)], FinishReason.STOP
            elif place == len(self.tokens):
                reason = FinishReason.STOP
            elif place == limit:
                reason = FinishReason.LENGTH
            delta = Delta(request_id, text[len(before) :], place, reason, self._logprob(place, raw, params))
            if reason:
                stop = next((stop for stop in params.stop if stop in said.decode(errors="ignore")), None)
                delta = replace(delta, stop=stop, stats=_stats(num_prompt, place))
            yield delta
            if reason:
                return

    async def _is_closed_within(self, delay_s: float) -> bool:
        try:
            await asyncio.wait_for(self._closing.wait(), delay_s or 1e-9)
        except TimeoutError:
            return False
        return True

    def _logprob(self, token_id: int, token: bytes, params: SamplingParams) -> TokenLogprob | None:
        if params.logprobs is None:
            return None
        others = (TokenLogprob(token_id, token, -0.5), TokenLogprob(0, b"\xf0", -math.inf))
        return TokenLogprob(token_id, token, -0.5, others[: params.logprobs])


def _stats(num_prompt: int, num_generated: int) -> Stats:
    """A request that cost no time; the half of its prompt was known."""
    return Stats(num_prompt, num_generated, 0.0, 0.0, 0.0, 1, 1, num_cached=num_prompt // 2)
