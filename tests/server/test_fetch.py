"""What is fetched for a request, and what never is."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from helpers.live_server import live_server
from helpers.seeing_m3 import image, png, user
from openm3.engine.llm import LLM
from openm3.engine.service import Service
from openm3.errors import InputError
from openm3.server import conversation
from openm3.server.fetch import MAX_REDIRECTS, fetch, is_public

Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def serving(answers: dict[str, Answer]) -> Generator[tuple[str, list[str]], None, None]:
    """A server on this machine: its URL, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def get(url: str, **options: Any) -> bytes:
    return asyncio.run(fetch(url, **{"max_bytes": 1000, "field": "url", **options}))


def here(address: Any) -> bool:
    return bool(address.is_loopback)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "ff02::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(ip_address(address))


def test_a_server_of_this_machine_is_never_asked_whatever_it_is_called() -> None:
    with serving({"/": (200, {}, b"secret")}) as (url, asked):
        port = url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "0", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"):
            with pytest.raises(InputError, match="isn't public"):
                get(f"http://{host}:{port}/")
    assert asked == []


def test_redirects_are_followed_to_what_may_be_reached_alone() -> None:
    loop = (302, {"location": "/loop"}, b"")
    answers: dict[str, Answer] = {
        "/found": (301, {"location": "/b"}, b""), "/b": (200, {}, b"content"), "/loop": loop,
        "/inside": (302, {"location": "http://10.0.0.1/"}, b""),
        "/file": (302, {"location": "file:///etc/passwd"}, b""),
    }  # fmt: skip
    with serving(answers) as (url, asked):
        assert get(f"{url}/found", may_reach=here) == b"content"
        with pytest.raises(InputError, match="isn't public"):
            get(f"{url}/inside", may_reach=here)
        with pytest.raises(InputError, match="only addresses of http and https"):
            get(f"{url}/file", may_reach=here)
        with pytest.raises(InputError, match="leads elsewhere more than 3 times"):
            get(f"{url}/loop", may_reach=here)
    assert asked.count("/loop") == MAX_REDIRECTS + 1


def test_what_is_too_much_is_not_read() -> None:
    answers: dict[str, Answer] = {
        "/large": (200, {}, b"x" * 100_000),
        "/bomb": (200, {"content-encoding": "gzip"}, b"\x1f\x8b"),
        "/missing": (404, {}, b""),
    }
    with serving(answers) as (url, _):
        for path, message in (("large", "over 1,000 bytes"), ("bomb", "compressed"), ("missing", "status 404")):
            with pytest.raises(InputError, match=message):
                get(f"{url}/{path}", may_reach=here)


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(InputError, match="not fetched within 0.2 seconds"):
            get(f"http://127.0.0.1:{port}/", may_reach=here, timeout_s=0.2)
    with pytest.raises(InputError, match="can't be fetched"):
        get(f"http://127.0.0.1:{port}/", may_reach=here)
    for url in ("http://", "http://a b/", "http://[::1", "http://no-such-name.invalid/", "http://\x00/"):
        with pytest.raises(InputError):
            get(url)


def test_the_server_reads_images_by_their_address(m3_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def linked(url: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url}}

    def ask(client: OpenAI, *parts: Any) -> int:
        usage = client.chat.completions.create(model="default", messages=user("See ", *parts), max_tokens=1).usage
        return usage.prompt_tokens if usage else 0

    with (
        serving({"/a.png": (200, {}, png(64, 64))}) as (url, asked),
        live_server(Service(m3_llm)) as server,
        OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client,
    ):
        for address in (f"{url}/a.png", "http://169.254.169.254/latest/meta-data/"):
            with pytest.raises(BadRequestError, match="isn't public") as caught:
                ask(client, linked(address))
            assert caught.value.param == "messages[0].content[1].image_url"
        assert asked == []
        reach = conversation.fetch
        monkeypatch.setattr(conversation, "fetch", lambda *args, **options: reach(*args, **options, may_reach=here))
        assert ask(client, linked(f"{url}/a.png")) == ask(client, image(png(64, 64)))
        with pytest.raises(BadRequestError, match="at most 16 addresses"):
            ask(client, *[linked(f"{url}/a.png")] * 17)


def test_a_server_may_fetch_nothing(m3_llm: LLM) -> None:
    with (
        serving({"/a.png": (200, {}, png(64, 64))}) as (url, asked),
        live_server(Service(m3_llm), fetch_media=False) as server,
        OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client,
    ):
        linked = {"type": "image_url", "image_url": {"url": f"{url}/a.png"}}
        with pytest.raises(BadRequestError, match="this server fetches nothing; send a data URL") as caught:
            client.chat.completions.create(model="default", messages=user("See ", linked), max_tokens=1)
        assert caught.value.param == "messages[0].content[1].image_url" and asked == []
        messages = user("See ", image(png(64, 64)))
        assert client.chat.completions.create(model="default", messages=messages, max_tokens=1).choices
