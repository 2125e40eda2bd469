"""What a task asks for, by its words: a change of what code does, or of something else, which is proved otherwise."""

from __future__ import annotations

import re
from typing import Literal, get_args

Kind = Literal["behaviour", "refactor", "tests", "document"]
"""behaviour: code does something else afterwards; refactor: it does the same; tests, document: only they are new."""

KINDS: tuple[Kind, ...] = get_args(Kind)

_SIGNS: dict[Kind, re.Pattern[str]] = {
    "refactor": re.compile(
        r"\b(?:refactor|restructure|reorgani[sz]e|tidy up|clean up|simplify|deduplicate)"
        r"|without (?:a )?chang(?:e|ing) (?:of |in )?(?:what|its|the) behaviou?r|same behaviou?r",
        re.IGNORECASE,
    ),
    "tests": re.compile(
        r"\b(?:write|add|create|generate|improve|extend)\s+(?:(?!with|and|that|which|whose)[\w-]+[ ,]+){0,4}tests?\b",
        re.IGNORECASE,
    ),
    "document": re.compile(r"\bdocstrings?\b|\bdocument (?:the|all|every|each|its|\w+\.py|`)", re.IGNORECASE),
}
_ALSO = re.compile(
    r"\b(?:fix|mend|repair|implement|build|develop|support|introduce|returns?|raises?|should|must)\b", re.IGNORECASE
)


def kind_of(description: str) -> Kind | None:
    """The kind that the words speak of; None where they speak of several, or of none for sure."""
    kinds = [kind for kind, sign in _SIGNS.items() if sign.search(description)]
    if not kinds:
        return "behaviour"
    return kinds[0] if len(kinds) == 1 and not _ALSO.search(description) else None
