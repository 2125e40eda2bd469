"""The HTTP clients under ours: they wait for their turn, and look into the cache."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2
import openai

from minimax.cache import Cache, key_of
from minimax.errors import NotAnApiError
from minimax.limits import Pacer


class HttpClient(openai.DefaultHttpxClient):
    """`openai.DefaultHttpxClient` with a pace and a cache."""

    def __init__(self, *, pacer: Pacer | None, cache: Cache | None, **options: Any) -> None:
        super().__init__(**options)
        self._pacer, self._cache = pacer, cache

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Sends a request, or answers it from the cache."""
        key = key_of(request) if self._cache is not None else None
        if (kept := _kept(self._cache, key, request)) is not None:
            return kept
        if self._pacer is not None and (wait_s := self._pacer.wait_s()) > 0:
            time.sleep(wait_s)
        response = _checked(super().send(request, **options))
        if key is not None and self._cache is not None and response.status_code == 200:
            self._cache.put(key, response.read())
        return response


class AsyncHttpClient(openai.DefaultAsyncHttpxClient):
    """`HttpClient` for asyncio."""

    def __init__(self, *, pacer: Pacer | None, cache: Cache | None, **options: Any) -> None:
        super().__init__(**options)
        self._pacer, self._cache = pacer, cache

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Sends a request, or answers it from the cache."""
        key = key_of(request) if self._cache is not None else None
        if (kept := _kept(self._cache, key, request)) is not None:
            return kept
        if self._pacer is not None and (wait_s := self._pacer.wait_s()) > 0:
            await asyncio.sleep(wait_s)
        response = _checked(await super().send(request, **options))
        if key is not None and self._cache is not None and response.status_code == 200:
            self._cache.put(key, await response.aread())
        return response


def _kept(cache: Cache | None, key: str | None, request: httpx2.Request) -> httpx2.Response | None:
    body = None if cache is None or key is None else cache.get(key)
    if body is None:
        return None
    headers = {"content-type": "application/json", "x-minimax-cache": "hit"}
    return httpx2.Response(200, headers=headers, content=body, request=request)


def _checked(response: httpx2.Response) -> httpx2.Response:
    """Refuses what can't be an answer of this API, before anybody reads text out of it."""
    if response.status_code == 200 and response.headers.get("content-type", "").startswith("text/html"):
        raise NotAnApiError(response, "a web page")
    return response
