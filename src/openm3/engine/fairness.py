"""Whose request is next: weighted fair shares of the engine. No torch here.

Every request belongs to a share, and every share has a time of its own, which goes on by the tokens that are computed
for it, divided by its weight. Next is the share whose time is least: the virtual token counter of arXiv 2401.00588,
with weights. So while two shares always have something waiting, their tokens are as their weights, whatever else they
ask for; and since the times of all others go on, everybody's turn comes.

A share that comes back is set to the least time of those that are there: nobody saves up while away.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openm3.engine.request import Request


@dataclass(frozen=True)
class Share:
    """Whose a request is, and what that counts.

    Attributes:
        name: requests of one name share one time.
        weight: how many tokens it gets for each one of a share with weight 1 while both are waiting.
    """

    name: str = ""
    weight: float = 1.0


ALONE = Share()
"""Where nobody is told apart."""


class FairQueue:
    """The requests that wait. One that was preempted goes on before others begin."""

    def __init__(self) -> None:
        self._preempted: deque[Request] = deque()
        self._waiting: dict[str, deque[Request]] = {}  # by share; none is empty
        self._times: dict[str, float] = {}
        self._present: Counter[str] = Counter()  # requests that wait or run

    def __len__(self) -> int:
        return len(self._preempted) + sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Request]:
        yield from self._preempted
        for queue in self._waiting.values():
            yield from queue

    def add(self, request: Request) -> None:
        """A request arrives."""
        name = request.share.name
        if not self._present[name]:
            others = [self._times[other] for other, count in self._present.items() if count]
            self._times[name] = max(self._times.get(name, 0.0), min(others, default=0.0))
        self._present[name] += 1
        self._waiting.setdefault(name, deque()).append(request)

    def put_back(self, request: Request) -> None:
        """A request that was running waits again, before those that were put back before."""
        self._preempted.appendleft(request)

    def first(self, running: Sequence[Request]) -> Request:
        """Whose turn it is; what `running` ones have still to read counts as if it were computed.

        Of two with the same time it is the one with more weight, then the one that came first.
        """
        if self._preempted:
            return self._preempted[0]
        unread: Counter[str] = Counter()
        for request in running:
            unread[request.share.name] += request.num_tokens - request.num_computed

        def turn(request: Request) -> tuple[float, float, float]:
            share = request.share
            return self._times[share.name] + unread[share.name] / share.weight, -share.weight, request.arrived_s

        return min((queue[0] for queue in self._waiting.values()), key=turn)

    def remove(self, request: Request) -> None:
        """A waiting request is taken out."""
        if request in self._preempted:
            self._preempted.remove(request)
            return
        queue = self._waiting[request.share.name]
        queue.remove(request)
        if not queue:
            del self._waiting[request.share.name]

    def charge(self, request: Request, num_tokens: int) -> None:
        """Tokens are computed for a request."""
        self._times[request.share.name] += num_tokens / request.share.weight

    def time(self, request: Request) -> float:
        """The time of its share."""
        return self._times[request.share.name]

    def leave(self, request: Request) -> None:
        """A request has ended. When nobody is left, nobody owes anybody anything."""
        self._present[request.share.name] -= 1
        if not self._present.total():
            self._present.clear()
            self._times.clear()
