"""`GET /v1/usage`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class UsageLimit(BaseModel):
    """A limit of the plan; `limit` and `remaining` are null where there is none."""

    limit: int | None
    used: int
    remaining: int | None
    resets_in_s: float


class UsageRecord(BaseModel):
    """What was used of a model in a day of UTC; requests that still run are not in it."""

    day: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class UsageReport(BaseModel):
    """What a key has used, and what its plan still allows.

    The limits are null for the anonymous caller of an open server, who isn't counted. `used` of the tokens has what
    running requests have reserved.
    """

    object: Literal["usage"] = "usage"
    key: str | None
    plan: str
    tokens_per_day: UsageLimit | None
    requests_per_minute: UsageLimit | None
    data: list[UsageRecord]
