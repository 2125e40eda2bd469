"""The client of the HTTP API. Importing it does nothing."""

from minimax.async_client import AsyncMiniMaxM3
from minimax.cache import FolderCache, MemoryCache
from minimax.client import MiniMaxM3
from minimax.errors import (
    ContextOverflowError,
    NoServerError,
    NotAnApiError,
    QuotaError,
    SlowServerError,
    StreamCutError,
    WrongKeyError,
)
from minimax.limits import RateLimit
from minimax.project import load_project_files

__all__ = [
    "AsyncMiniMaxM3",
    "ContextOverflowError",
    "FolderCache",
    "MemoryCache",
    "MiniMaxM3",
    "NoServerError",
    "NotAnApiError",
    "QuotaError",
    "RateLimit",
    "SlowServerError",
    "StreamCutError",
    "WrongKeyError",
    "load_project_files",
]
