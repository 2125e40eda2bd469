"""`/v1/batches`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from openm3.server.batches import Batches
from openm3.server.body import JsonRoute
from openm3.server.callers import CurrentCaller
from openm3.server.routes.files import owner_of, page
from openm3.server.schema.batches import Batch, BatchList, BatchRequest
from openm3.server.schema.response import ErrorResponse


def router(batches: Batches) -> APIRouter:
    """The endpoints that answer many requests in the background."""
    errors: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}}
    routes = APIRouter(route_class=JsonRoute, responses=errors)

    @routes.post("/v1/batches")
    async def create(asked: BatchRequest, caller: CurrentCaller) -> Batch:
        """Begins to answer the requests of a file."""
        return batches.create(owner_of(caller), asked)

    @routes.get("/v1/batches")
    async def list_batches(
        caller: CurrentCaller, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
    ) -> BatchList:
        """Lists batches, the newest first."""
        data, has_more = await asyncio.to_thread(page, batches.list(owner_of(caller)), limit, after)
        ids = [batch.id for batch in data]
        return BatchList(
            data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more
        )

    @routes.get("/v1/batches/{batch_id}")
    async def retrieve(batch_id: str, caller: CurrentCaller) -> Batch:
        """Describes a batch."""
        return batches.get(owner_of(caller), batch_id)

    @routes.post("/v1/batches/{batch_id}/cancel")
    async def cancel(batch_id: str, caller: CurrentCaller) -> Batch:
        """Ends a batch; what was answered is kept."""
        return batches.cancel(owner_of(caller), batch_id)

    return routes
