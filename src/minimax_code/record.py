"""The base of what is written down and read again, by this version of the package or by another."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A value that never changes. Fields that a newer version added are left out, wrong types are refused.

    Raises:
        pydantic.ValidationError: a field is missing or of a wrong type.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)
