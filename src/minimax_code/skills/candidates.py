"""Several answers to one request, of which the one is taken that does best when it is run.

The first answer is the model's single one, asked as it would be without any of this. Another takes its place only where
it passes more of the checks, or where nothing else tells them apart and more than half of all behave alike, and
differently from the first. So the loop costs tokens, but by what it can measure it never takes a worse answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from minimax_code.errors import BudgetError, ModelError
from minimax_code.model import Message, Model, Reply, Request, Usage
from minimax_code.skills.edits import EditError
from minimax_code.skills.prompt import prompt_of
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.findings import Findings
from minimax_code.workbench.receipt import Receipt

MAX_CANDIDATES = 64

_AT_ONCE = 4  # servers compute few answers together for little more than one
_SPREAD = 0.8  # the least temperature of further answers, so that they differ


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is known of the files of one answer.

    Attributes:
        num_checks, num_passed: tests, calls and commands that the model hasn't written.
        failure: the first that failed, or why the files can't be used, for the model to read; "" where there is none.
        num_errors: mistakes that analysers are sure of, such as names that nothing defines.
        is_broken: they don't parse, or can't be loaded.
        findings: of analysers.
    """

    num_checks: int = 0
    num_passed: int = 0
    failure: str = ""
    num_errors: int = 0
    is_broken: bool = False
    findings: Findings | None = None
    receipts: tuple[Receipt, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether there was a check, and none failed."""
        return 0 < self.num_checks == self.num_passed and not self.failure

    @property
    def score(self) -> tuple[bool, int, int]:
        """By which answers are compared; more is better."""
        return not self.is_broken, self.num_passed, -self.num_errors


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One answer; `files` are what was checked: those it wrote, mended and formatted."""

    number: int
    reply: Reply
    files: tuple[CodeFile, ...] = ()
    outcome: Outcome = Outcome()


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Which candidates behave alike.

    Attributes:
        groups: candidates that do, the largest group first; of equal ones that with the earliest candidate.
        apart: what tells the first two groups apart, in a sentence; "" where there is one group.
        preferred: the group that a judge took, where one was asked and was sure.
        usage: what that cost.
    """

    groups: tuple[tuple[Candidate, ...], ...]
    apart: str = ""
    preferred: int | None = None
    usage: Usage = field(default_factory=Usage)


Read = Callable[[str], Sequence[CodeFile]]
"""The files of an answer's text. Raises EditError: it has none."""
Examine = Callable[[Sequence[CodeFile]], Awaitable[tuple[tuple[CodeFile, ...], Outcome]]]
"""Readies files and checks them."""
Compare = Callable[[Sequence[Candidate]], Awaitable[Agreement]]


@dataclass(kw_only=True)
class Search:
    """Asks for answers until one passes all checks, or there are enough.

    Args:
        request: of the first answer, as it is.
        num_candidates: the most answers.
        repairs: whether every other further answer is asked to mend the best so far.
        compare: tells apart answers that checks don't; None: the first of equals is taken.
    """

    model: Model
    request: Request
    read: Read
    examine: Examine
    num_candidates: int = 1
    repairs: bool = False
    compare: Compare | None = None
    candidates: list[Candidate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    agreed: bool = False  # whether more than half of the answers behave like the best, and they were more than one

    async def best(self) -> Candidate:
        """The best answer.

        Raises:
            ModelError, BudgetError: the first answer can't be had. Where a further one can't, a note says so.
        """
        await self._add(1, await self.model.reply(self.request))
        while not self.candidates[-1].outcome.passed and len(self.candidates) < self.num_candidates:
            requests = self._further()
            replies = await asyncio.gather(*map(self.model.reply, requests), return_exceptions=True)
            for reply in replies:
                if isinstance(reply, ModelError | BudgetError):
                    self.notes.append(f"an answer could not be had: {reply}")
                elif isinstance(reply, BaseException):
                    raise reply
                elif self.candidates[-1].outcome.passed:  # so many at once were more than needed
                    self.usage += reply.usage
                else:
                    await self._add(len(self.candidates) + 1, reply)
            if all(isinstance(reply, ModelError | BudgetError) for reply in replies):
                break
        return await self._choose()

    def _further(self) -> list[Request]:
        """The next requests: one where failures are shown, else some at once."""
        number, leader = len(self.candidates) + 1, self._leader()
        if not self.repairs:
            return [self._fresh(one) for one in range(number, min(number + _AT_ONCE, self.num_candidates + 1))]
        if number % 2 == 0 and leader.outcome.failure:
            return [self._repair(leader, number)]
        return [self._fresh(number)]

    async def _add(self, number: int, reply: Reply) -> None:
        self.usage += reply.usage
        try:
            written = self.read(reply.content)
        except EditError as error:
            candidate = Candidate(number=number, reply=reply, outcome=Outcome(failure=str(error), is_broken=True))
        else:
            files, outcome = await self.examine(written)
            candidate = Candidate(number=number, reply=reply, files=files, outcome=outcome)
        self.candidates.append(candidate)

    def _leader(self) -> Candidate:
        return max(self.candidates, key=lambda one: one.outcome.score)  # of equals the first

    def _fresh(self, number: int) -> Request:
        temperature = max(_SPREAD, self.request.temperature or 0.0)
        seed = None if self.request.seed is None else self.request.seed + number - 1
        return self.request.model_copy(update={"temperature": temperature, "seed": seed})

    def _repair(self, candidate: Candidate, number: int) -> Request:
        told = Message(role="user", content=prompt_of("feedback", failure=candidate.outcome.failure))
        turns = (*self.request.messages, candidate.reply.message, told)
        return self._fresh(number).model_copy(update={"messages": turns})

    async def _choose(self) -> Candidate:
        leader = self._leader()
        level = [one for one in self.candidates if one.outcome.score == leader.outcome.score]
        if leader.outcome.passed or leader.outcome.is_broken or len(level) == 1 or self.compare is None:
            return leader
        agreement = await self.compare(level)
        self.usage += agreement.usage
        largest = agreement.groups[0]
        if agreement.apart:
            self.notes.append(f"{len(largest)} of {len(level)} answers behave alike; {agreement.apart}")
        if 2 * len(largest) > len(level):
            self.agreed = True
            return largest[0]
        return leader if agreement.preferred is None else agreement.groups[agreement.preferred][0]
