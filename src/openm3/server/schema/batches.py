"""`/v1/batches`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from openm3.server.schema.request import Only, RequestModel, Unsupported

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
Status = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]  # fmt: skip


class BatchRequest(RequestModel):
    """Requests of an uploaded file to answer in the background, within a day."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Annotated[Literal["24h"], Only]
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    output_expires_after: Unsupported = None


class BatchProblem(BaseModel):
    """Why a line is no request."""

    code: str
    message: str
    line: int | None
    param: None = None


class BatchProblems(BaseModel):
    """The first lines that are no requests."""

    object: Literal["list"] = "list"
    data: list[BatchProblem]


class BatchCounts(BaseModel):
    """Requests: all, those with an answer, those with an error."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(BaseModel):
    """A batch. Times are seconds since 1970."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: Endpoint
    errors: BatchProblems | None = None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: BatchCounts = BatchCounts()
    metadata: dict[str, str] | None = None


class BatchList(BaseModel):
    """Some batches; with `has_more` others follow `last_id`."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
