"""Amounts as people write them: "30 minutes", "100 API calls, $5", "2M tokens", "80%"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta

from minimax_code.errors import InputError

_NUMBER = r"(\d+(?:[,_]\d{3})*(?:\.\d+)?)\s*([kKM]?)"
_THOUSANDS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6}
_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0}
_SECONDS |= {"h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0, "week": 604_800.0}
_LIMITS = {
    "api call": "calls",
    "call": "calls",
    "request": "calls",
    "token": "tokens",
    "usd": "money",
    "dollar": "money",
}


def seconds_of(field: str, value: object) -> float:
    """A duration: "30 minutes", "1 hour 30 minutes", or a `timedelta`.

    Raises:
        InputError: it is no duration, has no unit or is not positive.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    else:
        text = str(value).strip().lower()
        parts = re.findall(rf"{_NUMBER}\s*([a-z]+)(?:\s*(?:,|and)\s*|\s+|$)", text)
        units = [_singular(unit) for *_, unit in parts]
        whole = re.fullmatch(rf"(?:{_NUMBER}\s*[a-z]+(?:\s*(?:,|and)\s*|\s+|$))+", text)
        if not whole or any(unit not in _SECONDS for unit in units):
            raise InputError(field, f"{value!r} is no duration; write it as in '30 minutes' or '2 hours'")
        seconds = sum(
            _number(number, scale) * _SECONDS[unit] for (number, scale, _), unit in zip(parts, units, strict=True)
        )
    if seconds <= 0:
        raise InputError(field, f"{value!r} leaves no time; it has to be more than nothing")
    return seconds


def limits_of(field: str, value: object) -> dict[str, float]:
    """What a budget allows, by the names of the limits ("calls", "tokens", "money"): "100 API calls, $5".

    Raises:
        InputError: it is no budget, or names a limit twice.
    """
    limits: dict[str, float] = {}
    for part in re.split(r",\s+|;\s*|\s+and\s+", str(value).strip()):
        dollars = re.fullmatch(rf"\$\s*{_NUMBER}", part)
        counted = re.fullmatch(rf"{_NUMBER}\s*([A-Za-z ]+)", part)
        if dollars:
            name, amount = "money", _number(*dollars.groups())
        elif counted and (unit := _singular(counted[3].strip().lower())) in _LIMITS:
            name, amount = _LIMITS[unit], _number(counted[1], counted[2])
        else:
            raise InputError(field, f"{part!r} is no budget; write it as in '100 API calls', '2M tokens' or '$5'")
        if name in limits:
            raise InputError(field, f"{value!r} limits {name} twice; once is enough")
        if amount <= 0:
            raise InputError(field, f"{part!r} allows nothing; leave it out where there is no limit")
        limits[name] = amount
    return limits


def limits_text(limits: Mapping[str, float]) -> str:
    """Limits as `limits_of` reads them."""
    return ", ".join(f"${amount:.4f}" if name == "money" else f"{amount:.0f} {name}" for name, amount in limits.items())


def percent_of(field: str, value: object) -> float:
    """A share of a hundred: 80, "80" or "80%".

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", str(value).strip())
    if isinstance(value, bool) or not found or float(found[1]) > 100:
        raise InputError(field, f"{value!r} is no share; write a number from 0 to 100")
    return float(found[1])


def _singular(unit: str) -> str:
    return unit[:-1] if len(unit) > 1 and unit.endswith("s") else unit


def _number(number: str, scale: str) -> float:
    return float(number.replace(",", "").replace("_", "")) * _THOUSANDS[scale]
