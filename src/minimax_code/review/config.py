"""How a review is done, as users write it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import Field, ValidationError, field_validator

from minimax_code.errors import InputError
from minimax_code.record import Record
from minimax_code.workbench.analysers import ALIASES, STANDARDS


class ReviewConfig(Record):
    """What a review holds code to, and what it may do.

    Attributes:
        standards: of `STANDARDS`, or files of the repository with rules of its own ("CONTRIBUTING.md"), which only a
            model can read; they are refused where none reviews.
        facts_only: whether no model is asked, even where there is one.
        auto_fix: whether fixes are made, each a commit of its own, where checks improve and none gets worse.
        auto_test: whether tests are written for changed lines that no test runs.
        min_coverage: percent of the changed lines that tests have to run, or None.
        max_comments: how many comments stand on lines at most; the rest is in the review's text.
        max_unproven: how many of them may be a model's finding that no test and no tool shows.
        exclude: globs of files that aren't reviewed.
        test_seconds: how long a run of all tests may take.
    """

    standards: tuple[str, ...] = ("security", "types", "performance")
    facts_only: bool = False
    auto_fix: bool = False
    auto_test: bool = False
    min_coverage: float | None = Field(default=None, ge=0, le=100)
    max_comments: int = Field(default=8, ge=0, le=50)
    max_unproven: int = Field(default=1, ge=0)
    exclude: tuple[str, ...] = ()
    test_seconds: float = Field(default=600.0, gt=0)

    @field_validator("standards")
    @classmethod
    def _known(cls, standards: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(ALIASES.get(name, name) for name in standards)
        for name in names:
            if name not in STANDARDS and not name.endswith((".md", ".txt", ".rst")):
                raise ValueError(f"{name!r} is none of {', '.join(STANDARDS)}, and no .md, .txt or .rst file")
        return names

    @property
    def named(self) -> tuple[str, ...]:
        """Standards that analysers know."""
        return tuple(name for name in self.standards if name in STANDARDS)

    @property
    def documents(self) -> tuple[str, ...]:
        """Files with standards of the repository's own."""
        return tuple(name for name in self.standards if name not in STANDARDS)


def read_config(config: Mapping[str, Any] | ReviewConfig | None) -> ReviewConfig:
    """The configuration that a user has given.

    Raises:
        InputError: a key or a value is wrong.
    """
    if isinstance(config, ReviewConfig):
        return config
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in (config or {}).items()
    }
    for key in given:
        if key not in ReviewConfig.model_fields:
            near = get_close_matches(key, ReviewConfig.model_fields, n=1)
            raise InputError(f"config.{key}", f"is unknown{f'; did you mean {near[0]}?' if near else ''}")
    try:
        return ReviewConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in ("config", *first["loc"]))
        raise InputError(place, first["msg"].removeprefix("Value error, ")) from error
