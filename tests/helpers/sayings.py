"""A real engine whose sampler is told what to say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from openm3.engine import engine
from openm3.engine.request import Request
from openm3.engine.sampler import Sampled
from openm3.text.byte_level import SMALLEST_VOCAB, byte_tokenizer
from openm3.text.m3 import END


def say(text: str, patch: pytest.MonkeyPatch) -> None:
    """Every answer of a model with the smallest byte-level tokenizer is this text, markers as control tokens."""
    tokenizer = byte_tokenizer(SMALLEST_VOCAB)
    ids = [*tokenizer.encode(text).ids, tokenizer.token_to_id(END)]

    def sample(logits_V: Tensor, request: Request, token_bytes: Callable[[int], bytes]) -> Sampled:
        return Sampled(ids[len(request.output_ids)])

    patch.setattr(engine, "sample", sample)
