"""How the clients reach a server: addresses, keys, connections, and whose fault it is when none answers."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai

from minimax.cache import Cache, FolderCache
from minimax.errors import NoServerError, SlowServerError
from minimax.limits import Pacer, RateLimit

LOCAL_BASE_URL = "http://127.0.0.1:8000/v1"
DEFAULT_MODEL = "default"
MAX_CONNECTIONS, MAX_KEEPALIVE_CONNECTIONS = 100, 20


def address(api_key: str | None, base_url: str | httpx2.URL | None) -> dict[str, Any]:
    """Key and base URL: given, of the environment, or those of a local server that is open."""
    return {
        "api_key": api_key or os.environ.get("MINIMAX_API_KEY") or "none",
        "base_url": base_url or os.environ.get("MINIMAX_BASE_URL") or LOCAL_BASE_URL,
    }


def http_options(
    max_connections: int | None,
    max_keepalive_connections: int | None,
    limits: RateLimit | None,
    cache: Cache | str | Path | None,
    transport: Any,
) -> dict[str, Any]:
    """What `HttpClient` and `AsyncHttpClient` take."""
    kept = MAX_KEEPALIVE_CONNECTIONS if max_keepalive_connections is None else max_keepalive_connections
    connections = httpx2.Limits(max_connections=max_connections or MAX_CONNECTIONS, max_keepalive_connections=kept)
    options: dict[str, Any] = {
        "pacer": None if limits is None else Pacer(limits),
        "cache": FolderCache(cache) if isinstance(cache, str | Path) else cache,
        "limits": connections,
    }
    return options if transport is None else {**options, "transport": transport}


def refuse_both(http_client: object, *ours: object) -> None:
    """An HTTP client of the caller's own has connections, limits, a cache and a transport of its own.

    Raises:
        TypeError: with the name of the option that would be ignored.
    """
    for name, value in zip(_OURS, ours, strict=True):
        if http_client is not None and value is not None:
            raise TypeError(f"{name}: can't be given beside http_client, which has its own; leave one of them out")


_OURS = ("max_connections", "max_keepalive_connections", "limits", "cache", "transport")


@contextmanager
def our_errors() -> Generator[None, None, None]:
    """Says of a failed connection what to do, once the retries are over."""
    try:
        yield
    except openai.APITimeoutError as error:
        raise SlowServerError(error.request) from error
    except openai.APIConnectionError as error:
        if isinstance(error.__cause__, httpx2.ConnectError):
            raise NoServerError(error.request) from error
        raise
