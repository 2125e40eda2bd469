"""What an agent's model reads: rules, ledger and conversation, within its window.

The rules and the ledger are given word for word, however much of the conversation had to go. Outputs of tools are cut
by rule first; only then older turns give way to a summary. Between two such changes a prompt only grows at its end, so
that servers find its beginning in their caches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from minimax_code.events import Compacted
from minimax_code.model import Message, Reply, Request, ToolSpec
from minimax_code.transcript import Ledger, Transcript, Turn

_FULL, _KEPT, _OUTPUT = 0.8, 0.3, 0.125  # of the window
_NEWEST = 6  # turns whose outputs aren't cut
_CUT = 600  # characters of an output that is given in part
_MOST_OUTPUT = 30_000
_SUMMARY = 1024  # tokens


@dataclass(frozen=True)
class Window:
    """Sizes in tokens.

    Attributes:
        tokens: of prompt and reply together.
        characters: of a token, rather too few than too many, as the server has counted so far.
    """

    tokens: int
    characters: float = 3.0

    @property
    def reply(self) -> int:
        """Set aside for the reply: a quarter, 4,096 at most."""
        return min(4096, self.tokens // 4)

    @property
    def output_characters(self) -> int:
        """How much of a tool's output is kept: so little that reading a file can't fill the window."""
        return min(_MOST_OUTPUT, int(self.tokens * _OUTPUT * self.characters))

    def count(self, request: Request) -> int:
        """Tokens of a prompt, rather too many than too few."""
        return int(length(request) / self.characters) + 4 * len(request.messages)


def request_of(transcript: Transcript, tools: Sequence[ToolSpec], window: Window) -> Request:
    """What the model is asked next."""
    assert transcript.started is not None
    system = Message(role="system", content=transcript.started.system)
    messages = (system, *_turns(transcript))
    return Request(messages=messages, tools=tuple(tools), max_tokens=window.reply)


def _turns(transcript: Transcript) -> list[Message]:
    if not transcript.compacted:
        return [turn.message for turn in transcript.turns]
    event, ledger = transcript.compacted
    kept = [turn for turn in transcript.turns if turn.seq > event.dropped]
    messages = [_cut(turn.message) if turn.seq <= event.trimmed else turn.message for turn in kept]
    if event.dropped:
        messages.insert(0, Message(role="user", content=f"{ledger_text(ledger)}\n\n# So far\n\n{event.summary}"))
    return messages


def _cut(message: Message) -> Message:
    if message.role == "tool":
        return message.model_copy(update={"content": clip(message.content, _CUT)})
    calls = tuple(call.model_copy(update={"arguments": _short_arguments(call.arguments)}) for call in message.calls)
    return message.model_copy(update={"calls": calls})


def _short_arguments(arguments: str) -> str:
    """The same object with its long strings cut: a file that was written can be read again."""
    if len(arguments) <= _CUT:
        return arguments
    try:
        given = json.loads(arguments)
    except ValueError:
        return "{}"
    if not isinstance(given, dict):
        return "{}"
    return json.dumps({name: clip(value, _CUT) if isinstance(value, str) else value for name, value in given.items()})


def clip(text: str, characters: int) -> str:
    """A text with its middle left out, and how much that was."""
    if len(text) <= characters:
        return text
    head, tail = characters * 2 // 3, characters // 3
    return f"{text[:head]}\n[{len(text) - head - tail:,} characters left out]\n{text[len(text) - tail :]}"


def ledger_text(ledger: Ledger) -> str:
    """The ledger as a model reads it."""
    parts = ["# What you were told", *ledger.told]
    if ledger.steps:
        parts += ["# Your plan", "\n".join(f"- [{step.state}] {step.text}" for step in ledger.steps)]
    if ledger.notes:
        parts += ["# Your notes", "\n".join(f"- {note}" for note in ledger.notes)]
    if ledger.receipts:
        runs = (f"- `{' '.join(one.command)}` exited with {one.exit_code}" for one in ledger.receipts)
        parts += ["# Your last runs", "\n".join(runs)]
    return "\n\n".join(parts)


def shorten(transcript: Transcript, tools: Sequence[ToolSpec], window: Window) -> Compacted | None:
    """How to make the conversation shorter, its summary still empty; None where it fits."""
    room = (window.tokens - window.reply) * _FULL
    if window.count(request_of(transcript, tools, window)) <= room:
        return None
    before = transcript.compacted[0] if transcript.compacted else Compacted(agent=transcript.agent, trimmed=0)
    turns = [turn for turn in transcript.turns if turn.seq > before.dropped]
    if len(turns) > _NEWEST:
        trimmed = before.model_copy(update={"trimmed": turns[-_NEWEST - 1].seq})
        if trimmed.trimmed > before.trimmed and _size(transcript, trimmed, tools, window) <= room / 2:
            return trimmed
    starts = [turn.seq for turn in turns if turn.message.role == "assistant"]
    for start in starts[1:]:  # what is dropped ends where a reply begins, so no call loses its result
        event = Compacted(agent=transcript.agent, trimmed=max(before.trimmed, start - 1), dropped=start - 1)
        if _size(transcript, event, tools, window) <= (window.tokens - window.reply) * _KEPT:
            return event
    last = starts[-1] - 1 if len(starts) > 1 else before.dropped
    return Compacted(agent=transcript.agent, trimmed=turns[-1].seq if turns else 0, dropped=last)


def _size(transcript: Transcript, event: Compacted, tools: Sequence[ToolSpec], window: Window) -> int:
    shorter = Transcript(
        transcript.agent, started=transcript.started, turns=transcript.turns, compacted=(event, transcript.ledger)
    )
    return window.count(request_of(shorter, tools, window))


def summary_request(transcript: Transcript, shorter: Compacted, window: Window) -> Request | None:
    """Asks for a summary of the turns that go; None where none do."""
    before, _ = transcript.compacted or (Compacted(trimmed=0), None)
    gone = [turn for turn in transcript.turns if before.dropped < turn.seq <= shorter.dropped]
    if not gone:
        return None
    room = int((window.tokens - window.reply) * _FULL * window.characters)
    told = clip(f"{before.summary}\n{digest(gone)}".strip(), room)
    system = resources.files("minimax_code").joinpath("summary.md").read_text(encoding="utf-8")
    messages = (Message(role="system", content=system.strip()), Message(role="user", content=told))
    return Request(messages=messages, max_tokens=min(window.reply, _SUMMARY))


def summary_of(reply: Reply, request: Request) -> str:
    """What stands for the turns that went: the model's summary, or the lines that it was to sum up."""
    summary = reply.content.strip()
    usable = summary and reply.finish_reason == "stop" and not reply.calls
    return summary if usable else clip(request.messages[-1].content, 4 * _SUMMARY)


def digest(turns: Sequence[Turn]) -> str:
    """The turns in one line each: what stands for them where no model has summed them up."""
    lines = []
    for turn in turns:
        message = turn.message
        if message.content.strip() and message.role == "assistant":
            lines.append(f"- you said: {_line(message.content)}")
        lines += [f"- you called {call.name} {_line(call.arguments)}" for call in message.calls]
        if message.role == "tool":
            lines.append(f"  which gave: {_line(message.content)}")
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(clip(text, 200).split())


def length(request: Request) -> int:
    """Characters of a prompt."""
    messages = sum(
        len(message.content) + sum(len(call.name) + len(call.arguments) for call in message.calls)
        for message in request.messages
    )
    return messages + sum(len(tool.model_dump_json()) for tool in request.tools)
