"""What has become of one agent, read from the events of its job. Going on after a crash is reading them again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from minimax_code.budget import Amount, Price
from minimax_code.events import (
    AgentStarted,
    AgentStopped,
    Compacted,
    Event,
    ModelAsked,
    ModelReplied,
    PermissionAnswered,
    PlanChanged,
    Recorded,
    Step,
    StuckSeen,
    Told,
    ToolEnded,
    ToolIntended,
)
from minimax_code.model import Message, Reply, ToolCall, Usage
from minimax_code.workbench.receipt import Receipt


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A message of the conversation, and the event (`seq`) that it came with."""

    seq: int
    message: Message


@dataclass(frozen=True, kw_only=True)
class Round:
    """A call that has ended, for the rules of `minimax_code.stuck`."""

    call: ToolCall
    output: str
    failed: bool
    tree: str


@dataclass(frozen=True)
class Ledger:
    """What an agent must not forget: what it was told, its plan and notes, and what its last runs came to."""

    told: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    receipts: tuple[Receipt, ...] = ()


@dataclass
class Transcript:
    """The fold over one agent's events; other agents' events change nothing.

    Attributes:
        agent: whose.
        seen: how many events of the job were read.
        started: with which model, tools and system text; None before.
        stopped: how it ended; None while it works.
        turns: the conversation, whole.
        open_calls: of the newest reply, without an outcome yet.
        last_words: the newest reply, if it calls nothing and nothing was said since.
        intended: the open call that was begun, if one was, with its event's `seq`.
        answers: of the user, by call.
        rules: permissions that the user gave for the rest of the job.
        ledger, compacted: what it must not forget, now and when the conversation was last made shorter, and how.
        rounds: calls since it was told something, by a user or by a rule.
        num_stuck: how often a rule found it going in circles since somebody told it something.
        tree: what its files are; "" before its first call.
        asked: characters of the newest prompt.
        characters: of a token, rather too few than too many, as the newest prompt was counted.
    """

    agent: str
    seen: int = 0
    started: AgentStarted | None = None
    stopped: AgentStopped | None = None
    turns: list[Turn] = field(default_factory=list)
    open_calls: list[ToolCall] = field(default_factory=list)
    last_words: Reply | None = None
    intended: tuple[int, ToolIntended] | None = None
    answers: dict[str, bool] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)
    ledger: Ledger = Ledger()
    compacted: tuple[Compacted, Ledger] | None = None
    rounds: list[Round] = field(default_factory=list)
    num_stuck: int = 0
    tree: str = ""
    asked: int = 0
    characters: float = 3.0
    _waiting: list[Message] = field(default_factory=list)

    @classmethod
    def of(cls, agent: str, recorded: Sequence[Recorded]) -> Transcript:
        """An agent's events out of those of its job."""
        transcript = cls(agent)
        transcript.read(recorded)
        return transcript

    def read(self, recorded: Sequence[Recorded]) -> None:
        """Takes in what is new in a job's events."""
        for one in recorded[self.seen :]:
            self.seen += 1
            if getattr(one.event, "agent", None) == self.agent:
                self._apply(one.seq, one.event)

    def _apply(self, seq: int, event: Event) -> None:
        match event:
            case AgentStarted():
                self.started = event
            case AgentStopped():
                self.stopped = event
            case Told(text=text):
                self._say(seq, Message(role="user", content=text))
                self.ledger = replace(self.ledger, told=(*self.ledger.told, text))
                self.stopped, self.rounds, self.num_stuck = None, [], 0
            case ModelAsked(characters=characters):
                self.asked = characters
            case ModelReplied(reply=reply):
                self._learn(reply.usage)
                self._say(seq, reply.message)
                self.open_calls, self.answers = list(reply.calls), {}
                self.last_words = None if reply.calls else reply
            case PermissionAnswered(call_id=call_id, allowed=allowed, rule=rule):
                self.answers[call_id] = allowed
                self.rules += [rule] if rule else []
                self.stopped = None
            case ToolIntended(tree=tree):
                self.intended, self.tree = (seq, event), tree
            case ToolEnded():
                self._end(seq, event)
            case PlanChanged(steps=steps, notes=notes):
                self.ledger = replace(self.ledger, steps=steps, notes=notes)
            case Compacted(usage=usage):
                self._learn(usage)
                self.compacted = event, self.ledger
            case StuckSeen(advice=advice):
                self._say(seq, Message(role="user", content=advice))
                self.rounds, self.num_stuck = [], self.num_stuck + 1
            case _:
                pass

    def _say(self, seq: int, message: Message) -> None:
        if self.open_calls and message.role == "user":  # results come right behind their calls
            self._waiting.append(message)
            return
        self.turns.append(Turn(seq=seq, message=message))
        self.last_words = None

    def _learn(self, usage: Usage) -> None:
        if self.asked and usage.prompt_tokens:
            self.characters = min(5.0, max(1.0, 0.95 * self.asked / usage.prompt_tokens))

    def _end(self, seq: int, event: ToolEnded) -> None:
        call = next((call for call in self.open_calls if call.id == event.call_id), None)
        if call is None:  # of a version that ends calls elsewhere
            return
        self._say(seq, Message(role="tool", content=event.output, call_id=call.id))
        self.open_calls.remove(call)
        self.answers.pop(call.id, None)  # it was for this call, not for one that borrows its id
        if not self.open_calls:
            self.turns += [Turn(seq=seq, message=message) for message in self._waiting]
            self._waiting = []
        self.intended, self.tree = None, event.tree or self.tree
        self.rounds.append(Round(call=call, output=event.output, failed=event.failed, tree=event.tree))
        if event.receipt:
            others = [receipt for receipt in self.ledger.receipts if receipt.command != event.receipt.command]
            kept = (*others, event.receipt)[-NUM_RECEIPTS:]
            self.ledger = replace(self.ledger, receipts=kept)


NUM_RECEIPTS = 6


def spent(recorded: Sequence[Recorded], price: Price | None = None) -> Amount:
    """What all agents of a job have used so far: to make its `Budget` again after a crash.

    A call whose reply never came counts with what was set aside for it. Seconds are those of models and tools.
    """
    amount, asked, price = Amount(), defaultdict[str, list[Amount]](list), price or Price()
    for one in recorded:
        match one.event:
            case ModelAsked(agent=agent, tokens=tokens):
                asked[agent].append(Amount(tokens=tokens, calls=1))  # several at once, where skills ask
            case ModelReplied(agent=agent, seconds=seconds) | Compacted(agent=agent, seconds=seconds) as event:
                usage = event.reply.usage if isinstance(event, ModelReplied) else event.usage
                amount += Amount(
                    tokens=usage.total_tokens,
                    calls=1 if asked[agent] else 0,  # trimming asks nobody
                    seconds=seconds,
                    money=price.of(usage),
                )
                del asked[agent][-1:]
            case ToolEnded(seconds=seconds):
                amount += Amount(seconds=seconds)
            case _:
                pass
    return sum((lost for each in asked.values() for lost in each), amount)
