"""Answers in parts while they arrive: thinking, answer and tool calls. How the text is cut changes nothing.

    parser = AnswerParser(dialect, thinking=begins_in_thinking(tokenizer, dialect, prompt_ids), tools=tools)
    for delta in deltas:
        for part in parser.push(delta.text): ...
    for part in parser.finish(): ...

A server sends `Thinking` as a delta of `reasoning_content`, `Answer` as one of `content`, and a `ToolCall`, which is
always complete, as one of `tool_calls`. Where `num_calls` isn't 0 and the model stopped by itself, the finish reason
is "tool_calls"; otherwise it is the engine's, also where the text ended in the middle of a call.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openm3.text import m3
from openm3.text.calls import call_reader
from openm3.text.dialect import Dialect
from openm3.text.scan import Scanner


@dataclass(frozen=True)
class Thinking:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class Answer:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """A complete call of a tool.

    Attributes:
        index: its number in this answer, from 0.
        name: of the tool; whether such a tool was offered isn't checked.
        arguments: a JSON object, as text.
    """

    index: int
    name: str
    arguments: str


Part = Thinking | Answer | ToolCall


@dataclass(frozen=True)
class Parsed:
    """A whole answer in its parts; `incomplete` as of `AnswerParser`."""

    thinking: str
    answer: str
    calls: tuple[ToolCall, ...]
    incomplete: bool


class AnswerParser:
    """The parts of one answer, from its text.

    Thinking is recognised where an answer begins, and only there: a marker that is quoted later is text. White space
    beside a marker is dropped. M3's namespace marker is never shown. A tool call that never ends, or that isn't
    written as the dialect has it, becomes text of the answer.

    Args:
        dialect: the markers of the model's family.
        thinking: the prompt ended within thinking (`begins_in_thinking`).
        tools: what was offered, as in an API request: the schemas say which arguments are numbers. Where none were
            offered, what looks like a call is text.

    Attributes:
        num_calls: calls so far.
        incomplete: the text ended within thinking or within a call; known after `finish`.
    """

    def __init__(
        self, dialect: Dialect, *, thinking: bool = False, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        if thinking and not dialect.think:
            raise ValueError("thinking: this dialect has none")
        self.num_calls = 0
        self.incomplete = False
        self._scanner = Scanner()
        self._reader = call_reader(dialect.tools, tools) if dialect.tools and tools else None
        self._think = dialect.think
        self._hidden = [m3.NAMESPACE] if dialect.tools == "m3" else []
        self._state: Literal["start", "thinking", "answer", "call"]
        self._state = "thinking" if thinking else "start" if dialect.think else "answer"
        self._parts: list[Part] = []
        self._space = ""  # shown once something follows it
        self._after_marker = thinking

    @property
    def is_thinking(self) -> bool:
        """Whether the text ends within thinking so far."""
        return self._state == "thinking"

    def push(self, text: str) -> list[Part]:
        """The parts that became certain with this text."""
        self._scanner.push(text)
        return self._read()

    def finish(self) -> list[Part]:
        """The rest: what might have begun a marker is text, and so is a call that never ended."""
        self._scanner.end()
        parts = self._read()
        if self._state == "call" and self._reader:
            self._show(Answer, self._reader.unread)
        if self._space and not self._after_marker:
            self._parts.append((Thinking if self._state == "thinking" else Answer)(self._space))
        self.incomplete = self._state in ("thinking", "call")
        return _joined([*parts, *self._take_parts()])

    def _read(self) -> list[Part]:
        steps = {
            "start": self._read_start,
            "thinking": self._read_thinking,
            "answer": self._read_answer,
            "call": self._read_call,
        }
        while steps[self._state]():
            pass
        return _joined(self._take_parts())

    # Each step takes what it can and says whether another may take more.

    def _read_start(self) -> bool:
        assert self._think
        self._space += self._scanner.take_space()
        if self._scanner.may_begin(self._think):
            return False
        text, marker = self._scanner.take(self._think)
        if text or not marker:  # no marker at the front
            self._scanner.unread(text + (marker or ""))
            self._state = "answer"
        else:
            self._pass_marker()
            self._state = "thinking" if marker == self._think[0] else "answer"
        return True

    def _read_thinking(self) -> bool:
        assert self._think
        text, marker = self._scanner.take([self._think[1], *self._hidden])
        self._show(Thinking, text)
        if marker == self._think[1]:
            self._pass_marker()
            self._state = "answer"
        return marker is not None

    def _read_answer(self) -> bool:
        openings = [self._reader.opening] if self._reader else []
        text, marker = self._scanner.take([*openings, *self._hidden])
        self._show(Answer, text)
        if self._reader and marker == self._reader.opening:
            self._reader.begin()
            self._state = "call"
        return marker is not None

    def _read_call(self) -> bool:
        assert self._reader
        while call := self._reader.read(self._scanner):
            self._pass_marker()
            name, arguments = call
            self._parts.append(ToolCall(self.num_calls, name, json.dumps(arguments, ensure_ascii=False)))
            self.num_calls += 1
        if self._reader.state == "open":
            return False
        if self._reader.state == "broken":
            self._show(Answer, self._reader.unread)
        self._state = "answer"
        return True

    def _show(self, kind: type[Thinking] | type[Answer], text: str) -> None:
        for hidden in self._hidden:
            text = text.replace(hidden, "")
        text = self._space + text
        if self._after_marker:
            text = text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._after_marker = False
            self._parts.append(kind(shown))

    def _pass_marker(self) -> None:
        self._space = ""
        self._after_marker = True

    def _take_parts(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts


def parse(
    dialect: Dialect, text: str, *, thinking: bool = False, tools: Sequence[Mapping[str, Any]] | None = None
) -> Parsed:
    """A whole answer at once; the arguments are those of `AnswerParser`."""
    parser = AnswerParser(dialect, thinking=thinking, tools=tools)
    return collect([*parser.push(text), *parser.finish()], incomplete=parser.incomplete)


def collect(parts: Iterable[Part], *, incomplete: bool) -> Parsed:
    """The parts of an answer put together."""
    parts = list(parts)
    return Parsed(
        thinking="".join(part.text for part in parts if isinstance(part, Thinking)),
        answer="".join(part.text for part in parts if isinstance(part, Answer)),
        calls=tuple(part for part in parts if isinstance(part, ToolCall)),
        incomplete=incomplete,
    )


def _joined(parts: Iterable[Part]) -> list[Part]:
    """Neighbours of one kind put together."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Thinking) and isinstance(last, Thinking):
            joined[-1] = Thinking(last.text + part.text)
        elif isinstance(part, Answer) and isinstance(last, Answer):
            joined[-1] = Answer(last.text + part.text)
        else:
            joined.append(part)
    return joined
