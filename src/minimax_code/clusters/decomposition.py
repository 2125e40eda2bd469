"""Reads what a model makes of a task, says what is wrong with it, and repairs by rule what the model doesn't."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from minimax_code.clusters.subtask import Subtask, field_of, reason_of
from minimax_code.errors import InputError, ModelError

MOST = 100
"""Sub-tasks that a task may be split into."""

_ITEM = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "description": {"type": "string"},
        "dependencies": {"type": "array", "items": {"type": "string"}},
        "estimated_duration": {"type": "number"},
        "required_capabilities": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["id", "description", "dependencies", "estimated_duration", "required_capabilities"],
    "additionalProperties": False,
}
_ARRAY = {"type": "array", "items": _ITEM, "minItems": 1, "maxItems": MOST}
SCHEMA: dict[str, Any] = {  # an object: many servers take nothing else on top
    "type": "object",
    "properties": {"subtasks": _ARRAY},
    "required": ["subtasks"],
    "additionalProperties": False,
}


def read(text: str) -> list[Subtask]:
    """The sub-tasks in a reply: a JSON array, alone, in a fence, within other text, or as the only member of an object.

    Raises:
        ModelError: there is none, or one of them can't be used.
    """
    items = _array(text)
    if not items:
        raise ModelError("there is no JSON array of sub-tasks in the reply")
    if len(items) > MOST:
        raise ModelError(f"{len(items)} sub-tasks are too many; at most {MOST} can be used")
    subtasks = []
    for i, item in enumerate(items):
        try:
            subtasks.append(Subtask.model_validate(item))
        except ValidationError as error:
            raise ModelError(f"sub-task {i + 1}: {field_of(error)}: {reason_of(error)}") from error
    return subtasks


def given(tasks: Sequence[Mapping[str, Any] | Subtask]) -> list[Subtask]:
    """Sub-tasks as their user gives them.

    Raises:
        InputError: one can't be used, is there twice, or depends on one that isn't there or on itself.
    """
    subtasks = []
    for i, task in enumerate(tasks):
        try:
            subtasks.append(task if isinstance(task, Subtask) else Subtask.model_validate(task))
        except ValidationError as error:
            raise InputError(f"tasks.{i}.{field_of(error)}", reason_of(error)) from error
    if found := problems(subtasks, None):
        raise InputError("tasks", "; ".join(found))
    return subtasks


def problems(subtasks: Sequence[Subtask], capabilities: Collection[str] | None) -> list[str]:
    """What is wrong with them together, a sentence each.

    Args:
        capabilities: what the agents know about; None where that isn't known.
    """
    ids = Counter(subtask.id for subtask in subtasks)
    found = [f"the id {name!r} is there {count} times" for name, count in ids.items() if count > 1]
    for subtask in subtasks:
        for name in subtask.dependencies:
            if name not in ids:
                found.append(f"{subtask.id!r} depends on {name!r}, which is not there")
        if capabilities is not None:
            for name in unknown(subtask, capabilities):
                found.append(f"{subtask.id!r} requires {name!r}, which no agent has")
    found += [f"{' -> '.join(cycle)} is a cycle" for cycle in cycles(subtasks)]
    return found


def repaired(subtasks: Sequence[Subtask], capabilities: Collection[str] | None) -> tuple[list[Subtask], list[str]]:
    """The sub-tasks without their problems, and what was changed, a sentence each."""
    notes: list[str] = []
    fixed = list(_with_own_ids(subtasks, notes))
    fixed = list(_without_orphans(fixed, notes))
    if capabilities is not None:
        fixed = [_with_known_capabilities(subtask, capabilities, notes) for subtask in fixed]
    while cycle := next(cycles(fixed), None):
        *_, last, first = cycle  # the dependency that closes it
        fixed = [_without(subtask, first) if subtask.id == last else subtask for subtask in fixed]
        notes.append(f"{last!r} no longer depends on {first!r}, which depends on it")
    return fixed, notes


def cycles(subtasks: Sequence[Subtask]) -> Iterator[list[str]]:
    """Rings of dependencies, each from a sub-task back to itself; at least one of each knot."""
    dependencies = {subtask.id: subtask.dependencies for subtask in subtasks}
    done: set[str] = set()
    for start in dependencies:
        path: list[str] = []
        stack = [(start, iter(dependencies[start]))] if start not in done else []
        path += [start] if stack else []
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                done.add(name)
                stack.pop()
                path.pop()
            elif following in path:
                yield [*path[path.index(following) :], following]
            elif following in dependencies and following not in done:
                stack.append((following, iter(dependencies[following])))
                path.append(following)


def unknown(subtask: Subtask, capabilities: Collection[str]) -> list[str]:
    """Required capabilities that nobody has; case doesn't count."""
    known = {name.casefold() for name in capabilities}
    return [name for name in subtask.required_capabilities if name.casefold() not in known]


def _array(text: str) -> list[Any] | None:
    fenced = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    begun = [text[at:] for at in (text.find("["), text.find("{")) if at >= 0]
    for candidate in (*fenced, text, *begun):
        try:
            value, _ = json.JSONDecoder().raw_decode(candidate.strip())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and len(value) == 1:
            [value] = value.values()
        if isinstance(value, list):
            return value
    return None


def _with_own_ids(subtasks: Sequence[Subtask], notes: list[str]) -> Iterator[Subtask]:
    seen: set[str] = set()
    for subtask in subtasks:
        name, count = subtask.id, 2
        while name in seen:
            name, count = f"{subtask.id}-{count}", count + 1
        seen.add(name)
        if name != subtask.id:
            notes.append(f"the second {subtask.id!r} is called {name!r}")
        yield subtask.model_copy(update={"id": name})


def _without_orphans(subtasks: Sequence[Subtask], notes: list[str]) -> Iterator[Subtask]:
    ids = {subtask.id for subtask in subtasks}
    for subtask in subtasks:
        for name in dict.fromkeys(subtask.dependencies):
            if name not in ids:
                notes.append(f"{subtask.id!r} no longer depends on {name!r}, which is not there")
        yield subtask.model_copy(update={"dependencies": tuple(name for name in subtask.dependencies if name in ids)})


def _with_known_capabilities(subtask: Subtask, capabilities: Collection[str], notes: list[str]) -> Subtask:
    known = {name.casefold(): name for name in capabilities}
    required: list[str] = []
    for name in subtask.required_capabilities:
        if name.casefold() in known:
            required.append(name)
        elif near := get_close_matches(name.casefold(), known, n=1, cutoff=0.7):
            required.append(known[near[0]])
            notes.append(f"{subtask.id!r} requires {known[near[0]]!r} instead of {name!r}")
        else:
            notes.append(f"{subtask.id!r} no longer requires {name!r}, which no agent has")
    return subtask.model_copy(update={"required_capabilities": tuple(dict.fromkeys(required))})


def _without(subtask: Subtask, name: str) -> Subtask:
    kept = tuple(dependency for dependency in subtask.dependencies if dependency != name)
    return subtask.model_copy(update={"dependencies": kept})
