"""An engine that says what a script says, in no time: behind the real `Service`, so that all but the model is real."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from openm3.engine.fairness import Share
from openm3.engine.output import Delta, FinishReason, Progress
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt

PAGES = 64


@dataclass(eq=False)
class _Running:
    request_id: str
    num_left: int
    began: bool = False


@dataclass
class ScriptedEngine:
    """The part of `openm3.engine.engine.Engine` that a `Service` uses.

    Args:
        step_s: how long a step takes; every running request gets a token.
        max_running: others wait.
    """

    step_s: float = 0.0
    max_running: int = 256
    _running: list[_Running] = field(default_factory=list)
    _waiting: list[_Running] = field(default_factory=list)
    _count: int = 0

    @property
    def scheduler(self) -> Any:
        pool = SimpleNamespace(num_free=PAGES, num_pages=PAGES)
        return SimpleNamespace(running=self._running, waiting=self._waiting, pool=pool)

    def add(self, prompt: Prompt | Sequence[int], params: SamplingParams, share: Share) -> Any:
        self._count += 1
        request = _Running(f"request-{self._count}", params.max_tokens or 16)
        self._waiting.append(request)
        return request

    def cancel(self, request: _Running) -> None:
        for requests in (self._running, self._waiting):
            if request in requests:
                requests.remove(request)

    def step(self) -> list[Any]:
        while self._waiting and len(self._running) < self.max_running:
            self._running.append(self._waiting.pop(0))
        if self.step_s and self._running:
            time.sleep(self.step_s)
        events: list[Any] = []
        for request in list(self._running):
            if not request.began:
                request.began = True
                events.append(Progress(request.request_id, 1, 1))
            request.num_left -= 1
            reason = None if request.num_left else FinishReason.LENGTH
            events.append(Delta(request.request_id, " token", 1, reason))
            if reason:
                self._running.remove(request)
        return events


@dataclass
class ScriptedLLM:
    """A model whose tokens are bytes and whose answer is " token" again and again."""

    engine: ScriptedEngine
    name: str = "scripted"
    identity: str = "0123456789abcdef"
    max_context: int = 1 << 20
    can_see: bool = False

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[Any], **options: Any) -> Prompt:
        return Prompt(self.encode("".join(str(message["content"]) for message in messages)))
