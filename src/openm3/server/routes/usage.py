"""`GET /v1/usage`."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query

from openm3.server.accounts.account import Account
from openm3.server.callers import CurrentCaller
from openm3.server.schema.response import ErrorResponse
from openm3.server.schema.usage import UsageLimit, UsageRecord, UsageReport


def router() -> APIRouter:
    """The endpoint that tells a caller its own usage."""
    routes = APIRouter()

    @routes.get("/v1/usage", responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}})
    async def usage(
        caller: CurrentCaller,
        since: Annotated[date | None, Query(description="The first day, in UTC.")] = None,
        until: Annotated[date | None, Query(description="The last day, in UTC.")] = None,
    ) -> UsageReport:
        """Tells what the key has used, by day and model, and what is left of its plan."""
        account = caller.meter
        if not isinstance(account, Account):
            return UsageReport(key=None, plan=caller.plan, tokens_per_day=None, requests_per_minute=None, data=[])
        left = await account.look()
        tokens, requests = left.used_tokens + left.reserved_tokens, left.recent_requests
        return UsageReport(
            key=caller.key_id,
            plan=caller.plan,
            tokens_per_day=UsageLimit(
                limit=left.tokens_per_day, used=tokens, remaining=left.tokens_left, resets_in_s=left.next_day_s
            ),
            requests_per_minute=UsageLimit(
                limit=left.requests_per_minute,
                used=requests,
                remaining=left.requests_left,
                resets_in_s=left.next_request_s,
            ),
            data=[
                UsageRecord(
                    day=row.day,
                    model=row.model,
                    requests=row.requests,
                    prompt_tokens=row.prompt_tokens,
                    completion_tokens=row.answer_tokens,
                    total_tokens=row.prompt_tokens + row.answer_tokens,
                )
                for row in await account.usage(since, until)
            ],
        )

    return routes
