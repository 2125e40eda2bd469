"""Several replicas as one backend: a prompt goes where it will be read first, and elsewhere when that one is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from openm3.engine.fairness import ALONE, Share
from openm3.engine.output import Delta, Event, Progress
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.engine.service import ReplicaStatus, ServiceStatus
from openm3.server.errors import ApiError
from openm3.server.replicas.prefixes import Prefixes, digests
from openm3.server.replicas.replica import Replica, ReplicaLostError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from openm3.engine.reader import Reader

T = TypeVar("T")

_ANSWER_TOKENS = 256  # An answer that is being decoded slows a prompt down about as much as reading so many tokens.

_RETRY_AFTER_S = 5
_UNKNOWN = ServiceStatus(0, 0, 0, 0)

_log = logging.getLogger(__name__)


class Replicas:
    """A backend of several engines with the same model.

    A prompt goes to the replica that will have read it first: what it has still to read for others, what its answers
    take from it, and what it doesn't know yet of this prompt, all in tokens. So prompts with the same beginning meet at
    one replica until it has so much to do that reading all of it elsewhere is faster.

    A request whose replica is lost before the first token is asked again at another one; after that its answer has
    begun, and ends with an error.

    Args:
        llm: how the model reads.
        replicas: all of them ready.
        check_s: time between checks whether they are up.
        patience_s: how long the answer of one that is up may take.
    """

    def __init__(
        self, llm: Reader, replicas: Sequence[Replica], *, check_s: float = 1.0, patience_s: float = 10.0
    ) -> None:
        self.llm = llm
        self._seats = [_Seat(replica) for replica in replicas]
        self._check_s, self._patience_s = check_s, patience_s
        self._checks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Asks each replica how it is, and from then on now and then."""
        await asyncio.gather(*(self._check(seat) for seat in self._seats))
        self._checks = [asyncio.create_task(self._check_for_ever(seat)) for seat in self._seats]

    async def aclose(self) -> None:
        """Ends the checks and the replicas; the streams end with finish reason "cancelled"."""
        for task in self._checks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*(seat.replica.aclose() for seat in self._seats))

    def status(self) -> ServiceStatus:
        """How busy they are together, as of the last checks."""
        last = [seat.status for seat in self._seats]
        return ServiceStatus(
            sum(seat.num_running for seat in self._seats),
            sum(status.waiting for status in last),
            sum(status.free_pages for status in last),
            sum(status.num_pages for status in last),
            tuple(seat.told() for seat in self._seats),
        )

    async def stream(
        self, prompt: Prompt | Sequence[int], params: SamplingParams, share: Share = ALONE
    ) -> AsyncGenerator[Event, None]:
        """As of `Backend`.

        Raises:
            InputError: the request can't be served.
            ApiError: no replica is up, or the one that had begun to answer was lost.
        """
        chain, lost = digests(prompt), list[_Seat]()
        num_prompt = len(prompt.ids if isinstance(prompt, Prompt) else prompt)
        while True:
            seat = self._choose(chain, num_prompt, lost)
            has_begun = False
            with seat.taken(chain, num_prompt) as unread:
                try:
                    async with aclosing(seat.replica.stream(prompt, params, share)) as events:
                        while (event := await seat.unless_lost(anext(events, None))) is not None:
                            unread.follow(event)
                            has_begun = has_begun or isinstance(event, Delta)
                            yield event
                    return
                except ReplicaLostError as error:
                    seat.went_down(str(error))
            if has_begun:
                raise ApiError(502, "the engine that was answering is lost; ask again", code="replica_lost")
            lost.append(seat)

    def _choose(self, chain: Sequence[bytes], num_prompt: int, without: Collection[_Seat]) -> _Seat:
        """Where a prompt will be read first.

        Raises:
            ApiError: nobody is up.
        """
        candidates = [seat for seat in self._seats if seat.is_up and seat not in without]
        if not candidates:
            headers = {"retry-after": str(_RETRY_AFTER_S)}
            raise ApiError(503, "no engine is up now; try again later", code="no_replica", headers=headers)

        def until_read(seat: _Seat) -> tuple[int, int]:
            return seat.burden + num_prompt - seat.prefixes.num_known(chain), seat.num_served

        return min(candidates, key=until_read)

    async def _check_for_ever(self, seat: _Seat) -> None:
        while True:
            await asyncio.sleep(self._check_s)
            try:
                await self._check(seat)
            except Exception:  # a check that ended would leave the replica as it is for ever
                _log.exception("the check of replica %s failed", seat.replica.name)

    async def _check(self, seat: _Seat) -> None:
        try:
            # One that is down answers when it has loaded, however long that takes.
            seat.came_up(await asyncio.wait_for(seat.replica.status(), self._patience_s if seat.is_up else None))
        except TimeoutError:
            seat.went_down(f"no answer within {self._patience_s:g} s")
            await seat.replica.restart()
        except ReplicaLostError as error:
            seat.went_down(str(error))


class _Unread:
    """Tokens of a request's prompt that its replica has still to read."""

    def __init__(self, seat: _Seat, num_tokens: int) -> None:
        self._seat, self._num_tokens = seat, num_tokens
        seat.num_unread += num_tokens

    def follow(self, event: Event) -> None:
        """The replica has said something about the request."""
        if isinstance(event, Progress):
            self._reduce(min(self._num_tokens, event.num_prompt - event.num_read))
        elif self._num_tokens:
            self._reduce(0)

    def _reduce(self, num_tokens: int) -> None:
        self._seat.num_unread -= self._num_tokens - num_tokens
        self._num_tokens = num_tokens

    def close(self) -> None:
        """The request has ended."""
        self._reduce(0)


@dataclass(eq=False)
class _Seat:
    """A replica, what it is doing for us, and what it probably remembers."""

    replica: Replica
    prefixes: Prefixes = field(default_factory=Prefixes)
    status: ServiceStatus = _UNKNOWN
    is_up: bool = False
    num_running: int = 0
    num_unread: int = 0
    num_served: int = 0
    num_prompt: int = 0
    num_known: int = 0
    num_failed: int = 0
    _waits: set[asyncio.Timeout] = field(default_factory=set)

    @property
    def burden(self) -> int:
        """What it does before a new prompt, in tokens."""
        return self.num_unread + _ANSWER_TOKENS * self.num_running

    @contextmanager
    def taken(self, chain: Sequence[bytes], num_prompt: int) -> Iterator[_Unread]:
        """A request is here."""
        known = self.prefixes.num_known(chain)
        unread = _Unread(self, num_prompt - known)
        self.prefixes.add(chain, self.status.num_pages)
        self.num_served += 1
        self.num_prompt += num_prompt
        self.num_known += known
        self.num_running += 1
        try:
            yield unread
        finally:
            self.num_running -= 1
            unread.close()

    async def unless_lost(self, work: Awaitable[T]) -> T:
        """The result of `work`.

        Raises:
            ReplicaLostError: the replica went down meanwhile.
        """
        try:
            async with asyncio.timeout(None) as wait:
                self._waits.add(wait)
                try:
                    return await work
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            if not wait.expired():
                raise
            raise ReplicaLostError("it doesn't answer") from None

    def came_up(self, status: ServiceStatus) -> None:
        """It has answered."""
        if not self.is_up:
            _log.warning("replica %s is up", self.replica.name)
        self.is_up, self.status = True, status

    def went_down(self, reason: str) -> None:
        """It is gone, with all that it remembers; whoever waits for it learns that."""
        if not self.is_up:
            return
        _log.warning("replica %s is down: %s", self.replica.name, reason)
        self.is_up = False
        self.num_failed += 1
        self.prefixes.clear()
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    def told(self) -> ReplicaStatus:
        """As others are told."""
        return ReplicaStatus(
            self.replica.name,
            self.is_up,
            self.num_running,
            self.num_served,
            self.num_prompt,
            self.num_known,
            self.num_failed,
        )
