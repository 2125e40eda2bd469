"""What agents may do: rules of the user, and a question where no rule says. Nothing that an agent reads changes them.

    permissions = Permissions.of("allow bash(pytest *)", "deny write(migrations/*)", ask=ask_in_the_terminal)

The sandbox is what keeps a machine unharmed; rules say what the user wants to happen within it, and beyond it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from minimax_code.errors import InputError

Action = Literal["allow", "ask", "deny"]
Reach = Literal["nothing", "files", "outside"]
"""What a tool can change: nothing, the agent's own copy of the files, or things outside of the sandbox."""

_RULE = re.compile(r"(?P<action>allow|ask|deny)\s+(?P<tool>[\w*.-]+)(?:\((?P<subject>.*)\))?", re.DOTALL)
_BETWEEN = re.compile(r"&&|\|\||[;&|\n]")
_SUBSTITUTES = re.compile(r"[$`<>(){}\\]")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`allow bash(pytest *)`: a `*` stands for anything, in the tool's name and in what it is called with.

    What a tool is called with is the command of `bash`, the path of `read`, `write` and `edit`, and the arguments as
    JSON of everything else.
    """

    action: Action
    tool: str
    subject: str = "*"

    @classmethod
    def of(cls, text: str) -> Rule:
        """Reads a rule.

        Raises:
            InputError: it is none.
        """
        found = _RULE.fullmatch(text.strip())
        if not found:
            raise InputError("permissions", f"{text!r} is no rule; write it as in 'allow bash(pytest *)'")
        action: Action = found["action"]  # type: ignore[assignment]  # the expression has no others
        return cls(action=action, tool=found["tool"], subject="*" if found["subject"] is None else found["subject"])

    def __str__(self) -> str:
        return f"{self.action} {self.tool}({self.subject})"

    def covers(self, tool: str, subject: str) -> bool:
        """Whether it speaks of such a call."""
        return fnmatchcase(tool, self.tool) and fnmatchcase(subject, self.subject)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a user is asked: the call, and in `rule` what would allow all calls like it."""

    agent: str
    tool: str
    subject: str
    rule: str

    def __str__(self) -> str:
        return f"{self.agent} wants to call {self.tool}: {self.subject}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the user says; `rule` goes on to hold for the rest of the job."""

    allowed: bool
    rule: str = ""


Asker = Callable[[Question], Awaitable[Answer]]


def asker_of(callback: Callable[[Question], Answer | bool]) -> Asker:
    """Asks by a function of a program that doesn't speak asyncio, in a thread of its own, one question at a time."""
    turn = asyncio.Lock()

    async def ask(question: Question) -> Answer:
        async with turn:
            said = await asyncio.to_thread(callback, question)
        if not isinstance(said, bool | Answer):
            raise InputError("ask", f"has to return True, False or an Answer, and returned {said!r}")
        return Answer(allowed=said) if isinstance(said, bool) else said

    return ask


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """Rules, and what holds where none speaks of a call.

    The strictest rule that speaks of a call decides: deny, then ask, then allow. What the user has answered once and
    for all comes before what asks. A call without a rule is allowed if it changes nothing, decided by `files` if it
    changes the agent's own files, and by `outside` if it reaches further.

    Attributes:
        answers: rules that the user has given when asked.
        ask: asks the user; None where nobody is there, and then an agent that has to ask stops.
    """

    rules: tuple[Rule, ...] = ()
    files: Action = "allow"
    outside: Action = "ask"
    ask: Asker | None = None
    answers: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, *rules: str, files: Action = "allow", outside: Action = "ask", ask: Asker | None = None) -> Permissions:
        """From rules as text.

        Raises:
            InputError: one of them is no rule.
        """
        return cls(rules=tuple(map(Rule.of, rules)), files=files, outside=outside, ask=ask)

    def also(self, rules: Sequence[str]) -> Permissions:
        """With further rules."""
        return replace(self, rules=(*self.rules, *map(Rule.of, rules)))

    def answered(self, rules: Sequence[str]) -> Permissions:
        """With rules that the user has given when asked."""
        return replace(self, answers=(*self.answers, *map(Rule.of, rules)))

    def decide(self, tool: str, subject: str, reach: Reach) -> tuple[Action, str]:
        """What holds for a call, and by which rule ("" where none speaks of it)."""
        parts = [part.strip() for part in _BETWEEN.split(subject) if part.strip()] if tool == "bash" else []
        speaking = [rule for rule in self.rules if any(rule.covers(tool, text) for text in (subject, *parts))]
        by_action = {rule.action: rule for rule in reversed(speaking)}  # the first of each
        if forbidding := by_action.get("deny"):
            return "deny", str(forbidding)
        if answered := _allowing(self.answers, tool, subject, parts):
            return "allow", str(answered)
        if asking := by_action.get("ask"):
            return "ask", str(asking)
        if allowing := _allowing(self.rules, tool, subject, parts):
            return "allow", str(allowing)
        match reach:
            case "nothing":
                return "allow", ""
            case "files":
                return self.files, ""
            case "outside":
                return self.outside, ""

    def forbids_change(self, paths: Sequence[str]) -> str | None:
        """The first of these paths that no tool may change, whichever did: what `deny write(...)` says of files."""
        return next((path for path in paths if any(fnmatchcase(path, rule.subject) for rule in self.of_files)), None)

    @property
    def of_files(self) -> list[Rule]:
        """Rules that say which files no tool may change."""
        return [rule for rule in self.rules if rule.action == "deny" and rule.tool in ("write", "edit")]


def _allowing(rules: Sequence[Rule], tool: str, subject: str, parts: Sequence[str]) -> Rule | None:
    """The rule that allows a call. Of several commands in one each has to be allowed: `pytest; rm -r x` is not."""
    allowing = [rule for rule in rules if rule.action == "allow"]
    if tool == "bash" and (not parts or _SUBSTITUTES.search(subject)):
        allowing = [rule for rule in allowing if rule.subject == "*"]
    found = [next((rule for rule in allowing if rule.covers(tool, text)), None) for text in parts or [subject]]
    return None if None in found else found[0]


def question_of(agent: str, tool: str, subject: str) -> Question:
    """What is asked about a call; the rule covers commands that begin alike, other calls of a tool as a whole."""
    first = subject.split(maxsplit=1)[0] if subject.strip() else ""
    plain = tool == "bash" and not _BETWEEN.search(subject) and not _SUBSTITUTES.search(subject)
    like = f"{first} *" if plain and first != subject.strip() else subject if tool == "bash" else "*"
    return Question(agent=agent, tool=tool, subject=subject, rule=f"allow {tool}({like})")
