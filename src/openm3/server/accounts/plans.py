"""Plans: what the holder of a key may use. They are read from a file that an operator edits."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

from openm3.config.names import nearest
from openm3.errors import InputError

_UNLIMITED = "unlimited"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one plan allows; None is no limit.

    Attributes:
        name: as keys have it.
        tokens_per_day: of prompts and answers, in a day of UTC.
        requests_per_minute: in any 60 seconds.
        concurrent_requests: at once.
        max_context: tokens of a request's prompts and the longest of its answers together.
        answer_tokens: the most that is generated where a request names no limit.
        weight: share of the engine while others wait, relative to other keys.
        models: patterns of the names that may be asked for; "!" excludes, and the last one that fits counts.
    """

    name: str
    tokens_per_day: int | None
    requests_per_minute: int | None
    concurrent_requests: int | None
    max_context: int | None
    answer_tokens: int | None
    weight: float
    models: tuple[str, ...]

    def allows(self, model: str) -> bool:
        """Whether a model may be asked for."""
        fitting = [pattern for pattern in self.models if fnmatchcase(model, pattern.removeprefix("!"))]
        return bool(fitting) and not fitting[-1].startswith("!")


def read_plans(path: Path | None = None) -> dict[str, Plan]:
    """The plans of a file by name; those of the package without one.

    Raises:
        InputError: the file can't be read, or a key or value is wrong; the message names it.
    """
    source = str(path or "the packaged plans")
    try:
        text = path.read_text() if path else (files(__package__) / "plans.toml").read_text()
        tables = tomllib.loads(text)
    except OSError as error:
        raise InputError("plans", f"can't read {source} ({error.strerror})") from error
    except ValueError as error:  # what is not TOML, or not UTF-8
        raise InputError("plans", f"{source}: {error}") from error
    if not tables:
        raise InputError("plans", f"{source}: has no plan; a plan is a table such as [plus]")
    return {name: _plan(name, table, source) for name, table in tables.items()}


def plan_named(name: str, plans: Mapping[str, Plan]) -> Plan:
    """The plan of that name.

    Raises:
        InputError: there is none.
    """
    if name not in plans:
        raise InputError("plan", f"there is no plan {name!r}{nearest(name, list(plans))}; there are {', '.join(plans)}")
    return plans[name]


def _plan(name: str, table: Any, source: str) -> Plan:
    if not isinstance(table, dict):
        raise InputError("plans", f"{source}: {name} must be a table, [{name}]")
    known = [field.name for field in fields(Plan) if field.name != "name"]
    for key in table:
        if key not in known:
            raise InputError("plans", f"{source}: [{name}] has an unknown key {key!r}{nearest(key, known)}")
    for key in known:
        if key not in table:
            raise InputError("plans", f'{source}: [{name}] lacks {key}; "unlimited" is no limit')
    values = {key: _value(key, value, f"{source}: [{name}] {key}") for key, value in table.items()}
    return Plan(name=name, **values)


def _value(key: str, value: Any, where: str) -> Any:
    if key == "models":
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise InputError("plans", f"{where} must be a list of patterns, got {value!r}")
        return tuple(value)
    if key == "weight":
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise InputError("plans", f"{where} must be a number above 0, got {value!r}")
        return float(value)
    if value == _UNLIMITED:
        return None
    if type(value) is not int or value < 1:
        raise InputError("plans", f'{where} must be a whole number above 0 or "unlimited", got {value!r}')
    return value
