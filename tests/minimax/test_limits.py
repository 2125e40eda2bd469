"""Client-side limits and the cache."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from minimax import AsyncMiniMaxM3, FolderCache, MemoryCache, MiniMaxM3, RateLimit
from minimax.cache import Cache
from minimax.limits import Pacer
from minimax.testing import ScriptedTransport


def test_no_period_has_more_calls_than_allowed() -> None:
    """Of 40 calls from four threads, those that may go within any tenth of a second are at most five."""
    pacer, turns, lock = Pacer(RateLimit(calls=5, period_s=0.1), now=lambda: 0.0), list[float](), threading.Lock()

    def take() -> None:
        for _ in range(10):
            turn = pacer.wait_s()
            with lock:
                turns.append(turn)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [0.1 * (i // 5) for i in range(40)]
    assert sorted(turns) == pytest.approx(expected), "and they don't wait longer than they have to"


def test_requests_wait_for_their_turn() -> None:
    limit = RateLimit(calls=2, period_s=0.2)
    started = time.monotonic()
    with MiniMaxM3(transport=ScriptedTransport("abc"), limits=limit) as client:
        texts = [client.complete("x").choices[0].text for _ in range(3)]
    assert texts == ["a", "b", "c"]
    assert time.monotonic() - started >= 0.2

    async def ask() -> float:
        async with AsyncMiniMaxM3(transport=ScriptedTransport("abc"), limits=limit) as client:
            begun = time.monotonic()
            await asyncio.gather(*(client.complete("x") for _ in range(3)))
            return time.monotonic() - begun

    assert asyncio.run(ask()) >= 0.2


@pytest.mark.parametrize("limit", [{"calls": 0, "period_s": 1}, {"calls": 1, "period_s": 0}])
def test_bad_limits_are_refused(limit: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="calls|period_s"):
        RateLimit(**limit)


@pytest.fixture(params=["memory", "folder"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    return MemoryCache() if request.param == "memory" else FolderCache(tmp_path / "answers")


def test_the_same_question_is_answered_from_the_cache(cache: Cache) -> None:
    transport = ScriptedTransport(["first", "second", "third", "fourth"])
    with MiniMaxM3(transport=transport, cache=cache) as client:
        answers = [client.complete("x").choices[0].text for _ in range(2)]
        other = client.complete("x", temperature=0.5).choices[0].text
    assert (answers, other) == (["first", "first"], "second")
    with MiniMaxM3(transport=transport, cache=cache, api_key="another") as client:
        assert client.complete("x").choices[0].text == "third", "an answer belongs to a key"

    async def ask() -> str:
        async with AsyncMiniMaxM3(transport=transport, cache=cache) as client:
            return (await client.complete("x")).choices[0].text

    assert asyncio.run(ask()) == "first", "both clients share a cache"


def test_errors_and_streams_are_not_kept(cache: Cache) -> None:
    transport = ScriptedTransport([500, "fine", "streamed", "streamed again"])
    with MiniMaxM3(transport=transport, cache=cache, max_retries=1) as client:
        assert client.complete("x").choices[0].text == "fine"
        for text in ("streamed", "streamed again"):
            assert "".join(chunk.content for chunk in client.generate("x", stream=True)) == text


def test_memory_forgets_the_longest_unused() -> None:
    cache = MemoryCache(max_entries=2)
    cache.put("a", b"1")
    cache.put("b", b"2")
    assert cache.get("a") == b"1"
    cache.put("c", b"3")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"1", None, b"3")


def test_an_http_client_of_ones_own_has_its_own() -> None:
    import openai

    with openai.DefaultHttpxClient() as own, pytest.raises(TypeError, match="cache: can't be given beside http_client"):
        MiniMaxM3(http_client=own, cache=MemoryCache())
