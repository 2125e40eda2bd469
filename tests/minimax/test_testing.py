"""The transports that users' tests have."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from helpers.odd_server import odd_server
from minimax import AsyncMiniMaxM3, MiniMaxM3, WrongKeyError
from minimax.testing import RecordedTransport, ScriptedTransport


def test_a_script_that_is_too_short_says_so() -> None:
    client = MiniMaxM3(transport=ScriptedTransport([]), max_retries=0)
    with client, pytest.raises(AssertionError, match="no reply to request 1"):
        client.complete("x")


def test_a_recorded_session_needs_no_server(tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"
    with odd_server() as address:
        url = f"{address}/locked/v1"
        transport = RecordedTransport(path, record=True)
        client = MiniMaxM3(base_url=url, api_key="sk-secret", transport=transport, max_retries=0)
        with client, pytest.raises(WrongKeyError):
            client.complete("x")
    assert "sk-secret" not in path.read_text()
    with MiniMaxM3(base_url=url, transport=RecordedTransport(path), max_retries=0) as client:
        for _ in range(2):
            with pytest.raises(WrongKeyError, match="the key is not known"):
                client.complete("x")
        with pytest.raises(AssertionError, match="record it anew"):
            client.complete("another question")

    async def ask() -> None:
        async with AsyncMiniMaxM3(base_url=url, transport=RecordedTransport(path), max_retries=0) as client:
            with pytest.raises(WrongKeyError):
                await client.complete("x")

    asyncio.run(ask())


def test_a_missing_recording_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RecordedTransport(tmp_path / "none.jsonl")
