"""How one answer is sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

from openm3.errors import InputError
from openm3.text.grammar import Constraint

MAX_LOGPROBS = 20


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Options of one request, with the meanings that the OpenAI API gave them. Defaults are greedy.

    Attributes:
        max_tokens: the most tokens to generate; None: as many as fit in the model's window.
        temperature: 0 is greedy; logits are divided by it otherwise.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches p.
        min_p: keep tokens at least this share as likely as the most likely one.
        repetition_penalty: divides positive and multiplies negative logits of every token that has
            occurred, prompt included (CTRL, arXiv 1909.05858); 1 is none.
        presence_penalty: subtracted once from the logit of a token that was generated.
        frequency_penalty: subtracted as many times as the token was generated.
        seed: the same seed gives the same text whatever else runs beside it; None draws a fresh one.
        stop: strings that end the answer; they are not part of it.
        stop_token_ids: tokens that end the answer, besides the model's own end tokens.
        ignore_eos: go on past the model's end tokens (for measuring).
        logprobs: report the chosen token's log probability and this many of the most likely ones
            (0 to 20); None reports none. They are the model's own, before penalties and temperature.
        evidence: observe which parts of the prompt each token of the answer reads, for `Completion.evidence`.
        constraint: what the answer has to look like; what a model thinks before is free. Such an answer ends when it is
            whole, so nothing else may end it but `max_tokens`, and that is finish reason "length".
        max_thinking: the most tokens that a model thinks before it answers; then its thinking is ended. None: as many
            as it likes.
        pool: generate nothing; what comes back is `Delta.state`, the mean of the states of the prompt's tokens.
        logit_bias: pairs of a token id and what is added to its logit, after penalties.

    Raises:
        InputError: a value is out of range; the error's field is the attribute's name.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: int | None = None
    evidence: bool = False
    constraint: Constraint | None = None
    max_thinking: int | None = None
    pool: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError("max_tokens", f"must be at least 1, got {self.max_tokens}")
        _check_range("temperature", self.temperature, 0.0, 100.0)
        _check_range("top_p", self.top_p, 0.0, 1.0)
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.top_k < 0:
            raise InputError("top_k", f"must be 0 (all tokens) or more, got {self.top_k}")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise InputError("seed", "must fit in 64 bits")
        if any(not text for text in self.stop):
            raise InputError("stop", "a stop string can't be empty")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise InputError("logprobs", f"must be from 0 to {MAX_LOGPROBS}, got {self.logprobs}")
        if self.max_thinking is not None and self.max_thinking < 1:
            raise InputError("max_thinking", f"must be at least 1, got {self.max_thinking}")
        for token_id, bias in self.logit_bias:
            _check_range("logit_bias", bias, -100.0, 100.0)
            if token_id < 0:
                raise InputError("logit_bias", f"{token_id} is no token id")
        for field in ("stop", "stop_token_ids", "ignore_eos") if self.constraint else ():
            if getattr(self, field):
                raise InputError(field, "an answer with a constraint ends when it is whole; leave one of them out")

    @property
    def has_penalties(self) -> bool:
        """Whether a penalty or a bias changes the logits."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1.0, 0.0, 0.0) or bool(self.logit_bias)


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(field, f"must be from {low:g} to {high:g}, got {value}")
