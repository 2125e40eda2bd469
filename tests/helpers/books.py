"""`Books`: a ledger in plain Python, all of it in one dictionary, for one key and any number of processes."""

from __future__ import annotations

from dataclasses import dataclass, field

from openm3.server.accounts.ledger import LEASE_S, WINDOW
from openm3.server.accounts.plans import Plan

DAY_S = 86_400


@dataclass
class Running:
    """A request that was admitted; times in seconds since 1970."""

    process: int
    started: float
    prompt: int
    most: int | None
    granted: int
    settled: bool = False


@dataclass
class Books:
    """What should come of it.

    Attributes:
        leases: until when each process counts as alive.
        used: tokens by day number.
    """

    plan: Plan
    leases: dict[int, float] = field(default_factory=dict)
    entries: list[Running] = field(default_factory=list)
    used: dict[int, int] = field(default_factory=dict)

    def beat(self, process: int, now: float) -> None:
        self.leases[process] = now + LEASE_S
        self.sweep(now)

    def sweep(self, now: float) -> None:
        for entry in self.entries:
            if not entry.settled and self.leases.get(entry.process, 0.0) <= now:
                self._charge(entry, entry.prompt + entry.granted)

    def reserve(self, process: int, now: float, prompt: int, answer: int | None) -> int | str | None:
        """The most tokens of the answer, or why it is refused."""
        self.sweep(now)
        plan, running = self.plan, [entry for entry in self.entries if not entry.settled]
        if plan.concurrent_requests is not None and len(running) >= plan.concurrent_requests:
            return "concurrency_limit_exceeded"
        if plan.requests_per_minute is not None:
            recent = [entry for entry in self.entries if entry.started > now - 60]
            if len(recent) >= plan.requests_per_minute:
                return "rate_limit_exceeded"
        most = plan.answer_tokens if answer is None else answer
        if plan.tokens_per_day is not None:
            left = max(0, plan.tokens_per_day - self.spoken_for(now))
            if prompt + (1 if answer is None else answer) > left:
                return "tokens_per_day_exceeded"
            most = left - prompt if most is None else min(most, left - prompt)
        self.entries.append(Running(process, now, prompt, most, WINDOW if most is None else min(WINDOW, most)))
        return most

    def extend(self, entry: Running, granted: int) -> bool:
        if not entry.settled:
            entry.granted = granted
        return not entry.settled

    def settle(self, entry: Running, prompt: int, answer: int) -> None:
        if not entry.settled:
            self._charge(entry, prompt + answer)

    def spoken_for(self, now: float) -> int:
        """Tokens of the day that are used or reserved."""
        day = now // DAY_S
        running = [each for each in self.entries if not each.settled and each.started // DAY_S == day]
        return self.used.get(int(day), 0) + sum(each.prompt + (each.most or 0) for each in running)

    def _charge(self, entry: Running, tokens: int) -> None:
        entry.settled = True
        day = int(entry.started // DAY_S)
        self.used[day] = self.used.get(day, 0) + tokens
