"""`/v1/files`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from openm3.errors import InputError
from openm3.server.callers import Caller, CurrentCaller, caller_of
from openm3.server.errors import ApiError
from openm3.server.files import FileStore
from openm3.server.multipart import Form
from openm3.server.schema.files import PURPOSES, File, FileDeleted, FileList
from openm3.server.schema.response import ErrorResponse

_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string", "enum": [*PURPOSES]}},
}

T = TypeVar("T")


def owner_of(caller: Caller) -> str:
    """Whose files a caller sees: those of its key; without one, everybody's without a key."""
    return caller.key_id or ""


def page(items: Iterable[T], limit: int, after: str | None) -> tuple[list[T], bool]:
    """The items behind the one with the id `after`, and whether more follow."""
    rest = iter(items)
    if after is not None and not any(item.id == after for item in rest):  # type: ignore[attr-defined]
        raise InputError("after", f"there is no {after[:64]!r}")
    some = list(islice(rest, limit + 1))
    return some[:limit], len(some) > limit


def router(store: FileStore) -> APIRouter:
    """The endpoints that keep files."""
    errors: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}}
    routes = APIRouter(responses=errors)

    @routes.post(
        "/v1/files",
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
    )
    async def upload(request: Request) -> File:
        """Keeps a file, which goes to the disk as it arrives."""
        with store.upload(owner_of(caller_of(request))) as part:
            form = await Form(part.write).read(request.headers.get("content-type", ""), request.stream())
            purpose = form.fields.pop("purpose", None)
            if form.fields:
                raise ApiError(400, f"{min(form.fields)[:64]}: unknown field", code="unknown_field", param="purpose")
            if purpose not in PURPOSES:
                raise InputError("purpose", f"must be one of {', '.join(PURPOSES)}")
            return await asyncio.to_thread(part.keep, form.filename or "", purpose)

    @routes.get("/v1/files")
    async def list_files(
        caller: CurrentCaller,
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> FileList:
        """Lists files, the newest first unless told otherwise."""

        def read() -> FileList:
            files = [file for file in store.list(owner_of(caller)) if purpose in (None, file.purpose)]
            data, has_more = page(files if order == "desc" else files[::-1], limit, after)
            ids = [file.id for file in data]
            return FileList(
                data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more
            )

        return await asyncio.to_thread(read)

    @routes.get("/v1/files/{file_id}")
    async def retrieve(file_id: str, caller: CurrentCaller) -> File:
        """Describes a file."""
        return store.get(owner_of(caller), file_id)

    @routes.get("/v1/files/{file_id}/content", response_class=FileResponse)
    async def content(file_id: str, caller: CurrentCaller) -> FileResponse:
        """What is in a file."""
        about = store.get(owner_of(caller), file_id)
        return FileResponse(
            store.path(owner_of(caller), file_id),
            media_type="application/octet-stream",
            filename=about.filename,
            headers={"x-content-type-options": "nosniff"},
        )

    @routes.delete("/v1/files/{file_id}")
    async def delete(file_id: str, caller: CurrentCaller) -> FileDeleted:
        """Deletes a file; batches that read it go on."""
        store.delete(owner_of(caller), file_id)
        return FileDeleted(id=file_id)

    return routes
