"""How much a skill may ask of a model, and how the model is best asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minimax_code.errors import InputError
from minimax_code.model import Message, Request
from minimax_code.skills.calibration import Calibration
from minimax_code.skills.candidates import MAX_CANDIDATES


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What one use of a skill may cost.

    Attributes:
        candidates: the most answers; 1 is the model's single answer, which is only checked.
        max_tokens: of each.
        temperature, seed, stop: of the first; further ones are sampled with at least 0.8.
        calibration: how the model is best used; None: in the way that asks least of it.
    """

    candidates: int = 1
    max_tokens: int = 2048
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= MAX_CANDIDATES:
            raise InputError("candidates", f"must be 1 to {MAX_CANDIDATES}, got {self.candidates}")

    @property
    def known(self) -> Calibration:
        """The calibration, or that of a model of which nothing is known."""
        return self.calibration or Calibration(model="")

    def request(self, messages: Sequence[Message]) -> Request:
        """The first request."""
        return Request(
            messages=tuple(messages),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            stop=self.stop,
        )
