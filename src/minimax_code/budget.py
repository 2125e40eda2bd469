"""What agents may use: one tree of budgets, taken from before each call, so that no number of agents uses more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from minimax_code.errors import BudgetError, InputError
from minimax_code.model import Usage
from minimax_code.record import Record


class Price(Record):
    """What a model costs, in any currency, for a million tokens each."""

    prompt: float = 0.0
    cached: float = 0.0
    completion: float = 0.0

    def of(self, usage: Usage) -> float:
        """What a reply has cost."""
        fresh = max(0, usage.prompt_tokens - usage.cached_tokens)
        cost = fresh * self.prompt + usage.cached_tokens * self.cached + usage.completion_tokens * self.completion
        return cost / 1e6


class Amount(Record):
    """Tokens of prompts (cached ones too) and completions, calls of a model, seconds, and money."""

    tokens: int = 0
    calls: int = 0
    seconds: float = 0.0
    money: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            tokens=self.tokens + other.tokens,
            calls=self.calls + other.calls,
            seconds=self.seconds + other.seconds,
            money=self.money + other.money,
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            tokens=self.tokens - other.tokens,
            calls=self.calls - other.calls,
            seconds=self.seconds - other.seconds,
            money=self.money - other.money,
        )


class Left(Record):
    """What is left of a budget and of all above it; None is without a limit."""

    tokens: int | None = None
    calls: int | None = None
    seconds: float | None = None
    money: float | None = None

    def share(self, part: float) -> dict[str, Any]:
        """So much of each, as limits of a budget."""
        counts = ("tokens", "calls")
        return {
            name: None if left is None else int(left * part) if name in counts else left * part for name, left in self
        }


class Budget:
    """Limits on tokens, calls, seconds and money. None is no limit; 0 is nothing at all.

        budget = Budget(tokens=200_000)
        with budget.child(tokens=50_000).reserve(prompt_tokens=900, completion_tokens=1024) as reservation:
            reservation.settle((await model.reply(request)).usage)

    Seconds run from the moment that a budget is made. It may be used by several threads.

    Args:
        price: what the model that is asked costs.
        spent: by an earlier process that worked on the same job.

    Raises:
        InputError: a limit is below 0.
    """

    def __init__(
        self,
        *,
        tokens: int | None = None,
        calls: int | None = None,
        seconds: float | None = None,
        money: float | None = None,
        price: Price | None = None,
        spent: Amount | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = Left(tokens=tokens, calls=calls, seconds=None if seconds is None else float(seconds), money=money)
        for name, limit in self.limits:
            if limit is not None and limit < 0:
                raise InputError(f"budget.{name}", f"must be 0 or more, got {limit}")
        self.price = price or Price()
        self._clock, self._began = clock, clock() - (spent.seconds if spent else 0.0)
        self._spent, self._reserved = spent or Amount(), Amount()
        self._parent: Budget | None = None
        self._lock = threading.RLock()

    def child(self, *, price: Price | None = None, **limits: Any) -> Budget:
        """A budget whose uses count here too, and that never has more than is left here.

        Args:
            limits: as of `Budget`, and `spent`.
        """
        child = Budget(price=price or self.price, clock=self._clock, **limits)
        child._parent, child._lock = self, self._lock
        return child

    @property
    def spent(self) -> Amount:
        """Of this budget and its children; what is reserved isn't spent."""
        return self._spent.model_copy(update={"seconds": self._clock() - self._began})

    @property
    def left(self) -> Left:
        """What may still be reserved: the least of this budget and those above it."""
        with self._lock:
            all_left = [budget._own_left() for budget in self._with_parents()]
        least = {}
        for name in Left.model_fields:
            known = [getattr(left, name) for left in all_left if getattr(left, name) is not None]
            least[name] = min(known, default=None)
        return Left(**least)

    def reserve(self, *, prompt_tokens: int, completion_tokens: int) -> Reservation:
        """Sets aside what a call may use at most, here and in every budget above.

        Raises:
            BudgetError: there isn't as much left; nothing was set aside.
        """
        most = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        amount = Amount(tokens=most.total_tokens, calls=1, money=self.price.of(most))
        with self._lock:
            for budget in self._with_parents():
                budget._check(amount)
            for budget in self._with_parents():
                budget._reserved += amount
        return Reservation(self, amount)

    def _own_left(self) -> Left:
        used, limits = self.spent + self._reserved, self.limits
        return Left(
            tokens=None if limits.tokens is None else max(0, limits.tokens - used.tokens),
            calls=None if limits.calls is None else max(0, limits.calls - used.calls),
            seconds=None if limits.seconds is None else max(0.0, limits.seconds - used.seconds),
            money=None if limits.money is None else max(0.0, limits.money - used.money),
        )

    def _check(self, amount: Amount) -> None:
        left = self._own_left()
        if left.seconds == 0:
            raise BudgetError("seconds", f"all of {self.limits.seconds:g} seconds are used up; allow more of them")
        for name in ("calls", "tokens", "money"):
            has, needs, limit = getattr(left, name), getattr(amount, name), getattr(self.limits, name)
            if has is not None and needs > has:
                raise BudgetError(
                    name, f"{needs:,} {name} are needed for the next step and {has:,} of {limit:,} are left; allow more"
                )

    def _return(self, reserved: Amount, used: Amount) -> None:
        with self._lock:
            for budget in self._with_parents():
                budget._reserved -= reserved
                budget._spent += used

    def _with_parents(self) -> Iterator[Budget]:
        budget: Budget | None = self
        while budget is not None:
            yield budget
            budget = budget._parent


class Reservation:
    """What was set aside for one call. Without `settle`, its `with` block gives the tokens back, not the call."""

    def __init__(self, budget: Budget, amount: Amount) -> None:
        self._budget, self.amount, self._open = budget, amount, True

    def settle(self, usage: Usage) -> None:
        """Exchanges it for what the call has used, which may be more than was set aside. A second time does nothing."""
        if self._open:
            self._open = False
            used = Amount(tokens=usage.total_tokens, calls=1, money=self._budget.price.of(usage))
            self._budget._return(self.amount, used)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle(Usage())
