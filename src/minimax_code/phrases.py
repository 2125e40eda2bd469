"""Events in words, one line each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from minimax_code.events import (
    AgentStopped,
    Checked,
    Compacted,
    ContractFrozen,
    Event,
    ModelReplied,
    PermissionAnswered,
    PermissionAsked,
    StrategyChosen,
    StuckSeen,
    TaskBegan,
    TaskEnded,
    Told,
    ToolEnded,
    ToolIntended,
    Verified,
)
from minimax_code.model import ToolCall, Usage

_MOST = 200  # characters


def phrase(event: Event) -> str:
    """What an event says to a person; "" for those that only count. Nothing in it commands a terminal."""
    match event:
        case Told(text=text):
            said = f"is told: {text}"
        case TaskBegan(sandbox=sandbox, python=python):
            said = f"begins on a copy; code runs in {sandbox or 'a sandbox'}, with {python or 'Python'}"
        case ModelReplied(agent="calibration"):
            said = "answers short questions, some twenty, which show once what it can do"
        case ModelReplied(reply=reply):
            said = reply.content
        case ToolIntended(call=call):
            said = call_phrase(call)
        case ToolEnded(output=output, failed=failed):
            said = f"{'failed: ' if failed else ''}{_last_line(output) if failed else _first_line(output)}"
        case PermissionAsked(agent=agent, question=question):
            said = question.removeprefix(f"{agent} ")
        case PermissionAnswered(allowed=allowed, rule=rule):
            said = f"{'allowed' if allowed else 'refused'} by the user{f', and from now on: {rule}' if rule else ''}"
        case Compacted(dropped=dropped):
            said = "sums up what came before" if dropped else "shortens old outputs"
        case StuckSeen(rule=rule):
            said = f"goes in circles ({rule}) and is told so"
        case AgentStopped(reason="finished"):
            said = "is finished"  # its last words were said
        case AgentStopped(reason=reason, message=message):
            said = f"stops ({reason}): {message}"
        case StrategyChosen(strategy=strategy, reason=reason, calibration=known):
            said = f"is worked on by {'an agent' if strategy == 'agent' else 'a pipeline'}: {_why(reason, known)}"
        case ContractFrozen(contract=contract):
            said = f"will be measured by {', '.join(' '.join(check.command) for check in contract.checks) or 'nothing'}"
        case Checked(receipts=receipts):
            green = sum(receipt.exit_code == 0 for receipt in receipts)
            said = f"{green} of {len(receipts)} checks are green"
        case Verified(verdict=verdict):
            said = f"the verifier says {verdict.outcome}"
        case TaskEnded():
            said = "the task has ended"
        case _:
            return ""
    return line_of(said)


def call_phrase(call: ToolCall) -> str:
    """A call in a line: the tool, and what it is about."""
    try:
        arguments = json.loads(call.arguments)
    except ValueError:  # a model wrote it
        return line_of(f"{call.name} {call.arguments}")
    fields = arguments if isinstance(arguments, dict) else {}
    about = next((str(fields[name]) for name in ("command", "path", "pattern", "task") if name in fields), None)
    told = call.arguments if about is None and call.name != "plan" else about or ""
    return line_of(f"{call.name} {told}")


def line_of(text: str) -> str:
    """A text in one line that any terminal may print."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _MOST]).split())
    return f"{line[:_MOST]}…" if len(line) > _MOST else line


def printable(line: str) -> str:
    """A line as it is, but for what a terminal would take for a command."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)


def _why(reason: str, known: Mapping[str, Any]) -> str:
    if reason == "asked":
        return "as asked for"
    made = "kept from before" if reason == "known" else "made now"
    usage = Usage.model_validate(known.get("usage", {}), strict=False)
    return f"by a calibration {made}, of {known.get('num_questions', 0)} questions and {usage.total_tokens:,} tokens"


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
