"""What the client says when something is wrong, on real sockets: which error, what to do, and the request's id."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest

import minimax
from helpers.odd_server import odd_server
from minimax import MiniMaxM3


@pytest.fixture(scope="module")
def address() -> Generator[str, None, None]:
    with odd_server() as url:
        yield url


def client(address: str, kind: str, **options: Any) -> MiniMaxM3:
    return MiniMaxM3(base_url=f"{address}/{kind}/v1", max_retries=0, **options)


def test_no_server_says_how_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        MiniMaxM3(base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as nobody,
        pytest.raises(minimax.NoServerError, match=f"no server answers at http://127.0.0.1:{port}; .*openm3 serve"),
    ):
        nobody.complete("x")


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("page", minimax.NotAnApiError, "answered with a web page; check base_url"),
        ("bad-gateway", openai.InternalServerError, "answered 502 with a web page; is a proxy in between"),
        ("older", openai.NotFoundError, "is no endpoint of this server, which may be older"),
        ("locked", minimax.WrongKeyError, "the key is not known; pass api_key or set MINIMAX_API_KEY"),
    ],
)
def test_typed_errors_that_say_what_to_do(address: str, kind: str, error: type[Exception], message: str) -> None:
    with client(address, kind) as odd:
        calls: list[Callable[[], object]] = [
            lambda: odd.complete("x"),
            lambda: odd.analyze("x", "y"),
            lambda: odd.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}]),
        ]
        for call in calls:
            with pytest.raises(error, match=message):
                call()


def test_a_used_up_quota_says_when_it_resets(address: str) -> None:
    with client(address, "full") as odd, pytest.raises(minimax.QuotaError, match="it resets at") as raised:
        odd.complete("x")
    assert raised.value.request_id == "r1"
    assert raised.value.resets_at is not None
    assert abs(raised.value.resets_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(seconds=30)


def test_a_timeout_says_what_helps(address: str) -> None:
    with client(address, "slow", timeout=0.05) as odd, pytest.raises(minimax.SlowServerError, match="`timeout`"):
        odd.complete("x")


def test_a_cut_stream_has_the_partial_text(address: str) -> None:
    with client(address, "cut") as odd:
        seen = ""
        with pytest.raises(minimax.StreamCutError, match="cut after 5 characters .request r3") as raised:
            for chunk in odd.generate("x", stream=True):
                seen += chunk.content
    assert seen == raised.value.partial == "def f"
    assert raised.value.request_id == "r3"


async def cut_stream(address: str) -> str:
    async with minimax.AsyncMiniMaxM3(base_url=f"{address}/cut/v1", max_retries=0) as odd:
        with pytest.raises(minimax.StreamCutError) as raised:
            async for _ in odd.generate("x", stream=True):
                pass
        return raised.value.partial


def test_a_cut_stream_of_the_asynchronous_client(address: str) -> None:
    import asyncio

    assert asyncio.run(cut_stream(address)) == "def f"


def test_one_tree_over_the_packages_errors() -> None:
    for name in minimax.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(minimax, name), openai.OpenAIError)
