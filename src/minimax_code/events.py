"""What happens while agents work, as values: an agent emits them, a store keeps them, a screen shows them.

A job is its events: everything that a worker needs to go on after a crash is in them, and nothing else is.
An event that this version doesn't know, of a newer one, is read as `Unknown` and kept as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from minimax_code.contract import Contract, Verdict
from minimax_code.model import Reply, Strategy, ToolCall, Usage
from minimax_code.record import Record
from minimax_code.workbench.receipt import Receipt


class Event(Record):
    """Base of all events; the class's name is the kind that is stored."""


class Unknown(Event):
    """An event of another version."""

    kind: str
    data: dict[str, Any]


class AgentStarted(Event):
    """An agent begins. `system` is what it reads above all else, word for word, however long it works."""

    agent: str = ""
    model: str
    system: str
    tools: tuple[str, ...] = ()


class Told(Event):
    """Something is said to an agent: its task, a verifier's findings, what the user adds while it works."""

    agent: str = ""
    text: str


class ModelAsked(Event):
    """A model is being asked by an agent; what it reads follows from earlier events.

    Attributes:
        tokens: set aside for it.
        characters: of the prompt; with the tokens that the reply counts they say how long a token is.
    """

    agent: str = ""
    tokens: int = 0
    characters: int = 0


class ModelReplied(Event):
    """It answered. `request` is the hash of what it read, where nothing else tells which request this answers."""

    agent: str = ""
    request: str = ""
    reply: Reply
    seconds: float = 0.0


class PermissionAsked(Event):
    """A call waits for the user's answer; `question` says what it would do."""

    agent: str = ""
    call_id: str
    question: str


class PermissionAnswered(Event):
    """The user's answer. `rule` holds for the rest of the job, for example `allow bash(pytest *)`."""

    agent: str = ""
    call_id: str
    allowed: bool
    rule: str = ""


class ToolIntended(Event):
    """A tool is about to be called. Without the `ToolEnded` of the same call, what came of it is unknown."""

    agent: str = ""
    call: ToolCall
    tree: str


class ToolEnded(Event):
    """A tool has been called, or was refused; `tree` is what the files are now, `receipt` of what was run."""

    agent: str = ""
    call_id: str
    output: str
    failed: bool
    tree: str
    seconds: float
    receipt: Receipt | None = None


class Step(Record):
    """A step of a plan."""

    text: str
    state: Literal["todo", "doing", "done"] = "todo"


class PlanChanged(Event):
    """An agent's plan, and what it wants to remember, as a whole: the ledger, which no compaction touches."""

    agent: str = ""
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


class Compacted(Event):
    """What an agent reads was made shorter, as it came near the model's window.

    Attributes:
        trimmed: outputs of tools up to this event (`seq`) are given in part.
        dropped: everything up to this event is given as `summary`, behind the ledger.
        usage, seconds: what the summary has cost.
    """

    agent: str = ""
    trimmed: int
    dropped: int = 0
    summary: str = ""
    usage: Usage = Usage()
    seconds: float = 0.0


class StuckSeen(Event):
    """An agent goes in circles, by a rule of `minimax_code.stuck`; it is told so, twice at most."""

    agent: str = ""
    rule: str
    advice: str


StopReason = Literal["finished", "budget", "stuck", "needs_input", "failed"]


class AgentStopped(Event):
    """An agent has come to an end, until it is told something more.

    Attributes:
        reason: "finished" is the agent's own word and proves nothing; "failed" is a model that can't be asked.
        message: the agent's last words, or what is missing.
    """

    agent: str = ""
    reason: StopReason
    message: str


class TaskBegan(Event):
    """A task is taken up: as it was given, and the tree of the user's files as they were.

    Attributes:
        sandbox, python: in which its code runs, and with which interpreter.
    """

    task: dict[str, Any]
    base: str
    sandbox: str = ""
    python: str = ""


class StrategyChosen(Event):
    """How the task will be worked on; it doesn't change from here on.

    Attributes:
        reason: "asked": the user wants it so; "known": a calibration of the model says so that was there already;
            "calibrated": one that was made for this task, and so is part of its cost.
        calibration: what is known of the model; empty where nothing is.
    """

    strategy: Strategy
    reason: Literal["asked", "known", "calibrated"]
    calibration: Mapping[str, Any] = {}


class ContractFrozen(Event):
    """What the task will be measured by; it doesn't change from here on."""

    contract: Contract


class Checked(Event):
    """The contract's checks were run on the worker's files."""

    tree: str
    receipts: tuple[Receipt, ...]


class Verified(Event):
    """An independent verifier has looked at the files."""

    verdict: Verdict


class TaskEnded(Event):
    """What came of the task; nothing follows."""

    result: dict[str, Any]


class SubtaskBegan(Event):
    """An agent of a cluster begins with a sub-task. Without the `SubtaskEnded` of the attempt it was interrupted."""

    subtask: str
    agent: str
    attempt: int


class SubtaskEnded(Event):
    """An attempt has come to an end; `cause` says why it failed."""

    subtask: str
    agent: str
    attempt: int
    success: bool
    result: Mapping[str, Any] = {}
    cause: str = ""


class ProjectBegan(Event):
    """A project has its files: those of the user's folder as they were."""

    base: str


class PhaseAdded(Event):
    """A phase of a project: what is to be done, by whom, and the phases that it builds on."""

    phase: str
    agent: str
    task: dict[str, Any]
    after: tuple[str, ...] = ()


class PhaseBegan(Event):
    """A phase begins, or begins anew: on the project's files as they are (`tree`), as a job of its own."""

    phase: str
    job: str
    tree: str


class PhaseEnded(Event):
    """A phase has come to an end.

    Attributes:
        result: of its task.
        merged: whether the project has its files from now on, which then are `tree`.
        conflicts: files in which it contradicts what was merged before.
    """

    phase: str
    job: str
    tree: str
    result: dict[str, Any]
    merged: bool = False
    conflicts: tuple[str, ...] = ()


class WorkerStarted(Event):
    """A worker takes the job up, for the first time or again; `version` is of the package that it runs."""

    worker: str
    token: int
    version: str


class WorkerStopped(Event):
    """A worker lets go of the job before its end. One that was killed leaves no such event."""

    reason: Literal["paused", "cancelled", "failed", "stopped"]
    message: str = ""


class CheckpointReached(Event):
    """So many hours have been worked, and the user wants to be told; `tree` is what the files are."""

    hours: float
    tree: str


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """An event in its log; `seq` counts from 1 within a job."""

    seq: int
    at: datetime
    event: Event


class Log(Protocol):
    """Where the events of one job go."""

    @property
    def recorded(self) -> Sequence[Recorded]:
        """All so far, in order."""
        ...

    async def append(self, event: Event) -> Recorded:
        """Writes an event down; when it returns, a crash can't lose it.

        Raises:
            StoreError: it can't be written, or (`LeaseError`) this worker no longer holds the job.
        """
        ...


class MemoryLog:
    """A log that ends with the process."""

    def __init__(self) -> None:
        self._recorded: list[Recorded] = []

    @property
    def recorded(self) -> Sequence[Recorded]:
        """All so far, in order."""
        return self._recorded

    async def append(self, event: Event) -> Recorded:
        """Keeps an event."""
        recorded = Recorded(seq=len(self._recorded) + 1, at=datetime.now(UTC), event=event)
        self._recorded.append(recorded)
        return recorded


def dump(event: Event) -> tuple[str, dict[str, Any]]:
    """Kind and data of an event, as JSON can hold them."""
    if isinstance(event, Unknown):
        return event.kind, event.data
    return type(event).__name__, event.model_dump(mode="json")


def load(kind: str, data: dict[str, Any]) -> Event:
    """The event that `dump` made these of.

    Raises:
        pydantic.ValidationError: the data is not that of the kind.
    """
    known = {cls.__name__: cls for cls in _subclasses(Event)}
    if kind not in known:
        return Unknown(kind=kind, data=data)
    return known[kind].model_validate_json(json.dumps(data))


def _subclasses(cls: type[Event]) -> list[type[Event]]:
    return [found for one in cls.__subclasses__() for found in (one, *_subclasses(one))]
