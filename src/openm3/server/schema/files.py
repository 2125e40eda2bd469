"""`/v1/files`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

PURPOSES = ("batch", "user_data", "vision")
"""What a file may be uploaded for."""


class File(BaseModel):
    """An uploaded file, or what a batch has made."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(BaseModel):
    """Some files; with `has_more` others follow `last_id`."""

    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
