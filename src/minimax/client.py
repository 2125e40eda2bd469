"""The `openai` package's clients, with the defaults of this API."""

from __future__ import annotations

import os
from typing import Any

from openai import AsyncOpenAI, OpenAI

LOCAL_BASE_URL = "http://127.0.0.1:8000/v1"


class MiniMaxM3(OpenAI):
    """A client of `openm3 serve`, of MiniMax's own API or of any server that speaks the OpenAI API.

        client = MiniMaxM3()
        client.chat.completions.create(model="default", messages=[{"role": "user", "content": "Hello"}])

    Args:
        api_key: default `MINIMAX_API_KEY`, else none is sent that means anything.
        base_url: default `MINIMAX_BASE_URL`, else `http://127.0.0.1:8000/v1`, where `openm3 serve` listens.
        options: what `openai.OpenAI` takes.
    """

    def __init__(self, *, api_key: str | None = None, base_url: str | None = None, **options: Any) -> None:
        super().__init__(**_connection(api_key, base_url), **options)


class AsyncMiniMaxM3(AsyncOpenAI):
    """`MiniMaxM3` for asyncio, over `openai.AsyncOpenAI`."""

    def __init__(self, *, api_key: str | None = None, base_url: str | None = None, **options: Any) -> None:
        super().__init__(**_connection(api_key, base_url), **options)


def _connection(api_key: str | None, base_url: str | None) -> dict[str, Any]:
    return {
        "api_key": api_key or os.environ.get("MINIMAX_API_KEY") or "none",
        "base_url": base_url or os.environ.get("MINIMAX_BASE_URL") or LOCAL_BASE_URL,
    }
