"""Rules that see an agent going in circles. What it has done says so, not what it says of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from minimax_code.model import Reply
from minimax_code.transcript import Round

MAX_ADVICE = 2
"""How often an agent is advised; going in circles once more ends it."""


def find_circle(rounds: Sequence[Round], *, patience: int) -> tuple[str, str] | None:
    """The first rule that applies, and what the agent is told.

    Args:
        rounds: its calls since it was last told something.
        patience: how many calls may go by without a file being changed.
    """
    for name, rule in _RULES.items():
        if advice := rule(rounds, patience):
            return name, advice
    return None


def find_fault(reply: Reply) -> tuple[str, str] | None:
    """The rule that a reply without calls breaks, and what the agent is told."""
    if reply.finish_reason == "length":
        return "cut", "Your reply was cut, it was too long. Write less at a time: one call, or a part of a file."
    if not reply.content.strip():
        return "empty", "You said nothing and called nothing. Go on, or say what you did."
    return None


def _same_call(rounds: Sequence[Round], _: int) -> str | None:
    last = rounds[-3:]
    same = {(one.call.name, one.call.arguments, one.output) for one in last}
    if len(last) < 3 or len(same) > 1:
        return None
    return f"You have called {last[0].call.name} three times with the same result. Do something else."


def _same_error(rounds: Sequence[Round], _: int) -> str | None:
    last = rounds[-3:]
    errors = {_without_numbers(one.output) for one in last if one.failed}
    if len(last) < 3 or not all(one.failed for one in last) or len(errors) > 1:
        return None
    return (
        "The same error has come up three times. Don't try again what doesn't work: find its cause first, "
        "or take another way."
    )


def _back_and_forth(rounds: Sequence[Round], _: int) -> str | None:
    trees = [one.tree for i, one in enumerate(rounds) if i == 0 or rounds[i - 1].tree != one.tree][-4:]
    if len(trees) < 4 or trees[0] != trees[2] or trees[1] != trees[3]:
        return None
    return "You change the files back and forth between two states. Decide on one, and say in your plan why."


def _no_change(rounds: Sequence[Round], patience: int) -> str | None:
    last = rounds[-patience:]
    if len(last) < patience or len({one.tree for one in last}) > 1:
        return None
    return (
        f"Your last {patience} calls have changed no file. If you know enough, make the change; "
        "if nothing is to be changed, say what you found and stop."
    )


_RULES: dict[str, Callable[[Sequence[Round], int], str | None]] = {
    "same call": _same_call,
    "same error": _same_error,
    "back and forth": _back_and_forth,
    "no change": _no_change,
}


def _without_numbers(text: str) -> str:
    """Times, addresses and line numbers aside; the end of an output says what went wrong."""
    return re.sub(r"(0x)?[0-9a-f]*\d[0-9a-f]*", "0", text[-2000:])
