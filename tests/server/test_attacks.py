"""What is sent to do harm gets its error, and everybody else goes on being served.

Slow heads, slow bodies and clients that never read are in `test_gate.py`, addresses of images in `test_fetch.py`.
"""

from __future__ import annotations

import gzip
import json
import socket
import struct
import time
import zlib
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.live_server import live_server
from helpers.seeing_m3 import image, user
from openm3.engine.llm import LLM
from openm3.engine.service import Service

HI: list[Any] = [{"role": "user", "content": "hi"}]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "default", "messages": HI},
    "/v1/completions": {"model": "default", "prompt": "hi"},
    "/v1/responses": {"model": "default", "input": "hi"},
    "/v1/messages": {"model": "default", "messages": HI, "max_tokens": 5},
    "/v1/messages/count_tokens": {"model": "default", "messages": HI},
}
JSON = {"content-type": "application/json"}


@pytest.fixture
def others(server: str) -> Generator[None, None, None]:
    """Afterwards others are served as before."""
    yield
    for path, body in GOOD.items():
        assert httpx.post(server + path, json=body).status_code == 200


def refused(response: httpx.Response) -> str:
    """The message of an error in the shape of its path."""
    assert 400 <= response.status_code < 500
    assert response.headers["x-request-id"].startswith("req_")
    message = response.json()["error"]["message"]
    assert isinstance(message, str) and len(message) < 2000
    return message


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("path", GOOD)
def test_no_body_breaks_it(server: str, path: str) -> None:
    document = httpx.get(f"{server}/openapi.json").json()
    reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    known = sorted(document["components"]["schemas"][reference.rpartition("/")[2]]["properties"])

    with httpx.Client(base_url=server) as client:

        @given(fields=st.dictionaries(st.sampled_from(known) | st.text(max_size=8), values, max_size=4))
        @settings(max_examples=30, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        def check(fields: dict[str, Any]) -> None:
            response = client.post(path, content=json.dumps(GOOD[path] | fields), headers=JSON)
            if response.status_code != 200:
                refused(response)

        check()


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "\xff"}',
        b'{"model": "default", "temperature": NaN}',
        b'{"model": "default", "messages": ' + b"[" * 200_000,
        b'{"model": "default", "messages": ' + b'{"a":' * 100_000,
        b'{"model": "default", "seed": ' + b"9" * 100_000 + b"}",
        b'{"model": "\\ud800"}',
        gzip.compress(b" " * 10_000_000),
    ],
    ids=["utf-8", "nan", "deep", "deep-objects", "digits", "surrogate", "bomb"],
)
def test_bodies_that_are_no_json(server: str, path: str, body: bytes) -> None:
    headers = JSON | ({"content-encoding": "gzip"} if body[:1] == b"\x1f" else {})
    assert "not valid JSON" in refused(httpx.post(server + path, content=body, headers=headers))


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"stop": ["x" * 1_000_000] * 16}),
        ("/v1/chat/completions", {"n": 10**9}),
        ("/v1/completions", {"n": 10**30}),
        ("/v1/completions", {"prompt": ["x"] * 100_000}),
        ("/v1/completions", {"prompt": "x" * 5_000_000}),
        ("/v1/chat/completions", {"logit_bias": {str(i): 1 for i in range(100_000)}}),
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "x" * 10_000}}]}),
        ("/v1/chat/completions", {"x" * 1_000_000: 1}),
        ("/v1/responses", {"metadata": {str(i): "x" * 500 for i in range(10_000)}}),
        ("/v1/messages", {"stop_sequences": ["x" * 1_000_000]}),
        ("/v1/messages", {"max_tokens": -(10**30)}),
        ("/v1/messages", {"temperature": 10**400}),
    ],
)
def test_too_much_of_something(server: str, path: str, fields: dict[str, Any]) -> None:
    refused(httpx.post(server + path, json=GOOD[path] | fields, timeout=30))


@pytest.mark.usefixtures("others")
def test_nothing_that_is_sent_becomes_a_header(server: str) -> None:
    evil = "x\r\nset-cookie: a=b\r\n\r\n<script>"
    call = {"id": evil, "type": "function", "function": {"name": evil, "arguments": "{}"}}
    sent = [
        httpx.post(f"{server}/v1/chat/completions", json=GOOD["/v1/chat/completions"] | {"model": evil}),
        httpx.post(f"{server}/v1/chat/completions", json=GOOD["/v1/chat/completions"] | {evil: 1}),
        httpx.post(f"{server}/v1/chat/completions", json={
            "model": "default", "messages": [*HI, {"role": "assistant", "tool_calls": [call]}],
        }),
        httpx.post(f"{server}/v1/responses", json=GOOD["/v1/responses"] | {"previous_response_id": evil}),
        httpx.get(f"{server}/v1/responses/x%0d%0aset-cookie:%20a=b"),
        httpx.get(f"{server}/v1/models/x%0d%0aset-cookie:%20a=b"),
        httpx.get(f"{server}/v1/models/default", headers={"x-request-id": "mine"}),
    ]  # fmt: skip
    for response in sent:
        assert "set-cookie" not in response.headers and response.headers["x-request-id"].startswith("req_")
        assert response.headers["content-type"] == "application/json"


def exchange(server: str, data: bytes) -> bytes:
    """Everything that the server answers to raw bytes before it or we hang up."""
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        received = b""
        with suppress(OSError):  # it may hang up before it has read everything
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
    return received


POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/x.y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"x" * 1_000_000,
        POST + b"content-length: -5\r\n\r\n{}",
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}",
        POST + b"content-length: 99999999999999999999\r\n\r\n{}",
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n{}",
    ],
    ids=["tls", "garbage", "version", "head", "negative", "two-lengths", "length", "chunk", "chunk-length"],
)
def test_what_is_no_http(server: str, data: bytes) -> None:
    answer = exchange(server, data)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert not answer.startswith(b"HTTP/1.1 500")


@pytest.mark.usefixtures("others")
def test_garbage_behind_a_request_harms_only_its_connection(server: str) -> None:
    answer = exchange(server, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" + b"\x00\xff garbage\r\n\r\n" * 100)
    first, _, rest = answer.partition(b"HTTP/1.1 4")
    assert first.startswith(b"HTTP/1.1 200") and b'"status":"ok"' in first
    assert rest.startswith(b"00")
    pipelined = exchange(server, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 50)
    assert pipelined.count(b"HTTP/1.1 200") == 50


@pytest.fixture(scope="module")
def seeing(m3_llm: LLM) -> Generator[httpx.Client, None, None]:
    with live_server(Service(m3_llm)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": "default", "messages": HI, "max_tokens": 2} | fields)


def png_of(width: int, height: int) -> bytes:
    """A picture in a few kilobytes that says that it is this large, and is: of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = packer.compress(bytes(4_000_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_pictures_that_would_fill_the_memory(seeing: httpx.Client) -> None:
    bomb = png_of(60_000, 60_000)
    assert len(bomb) < 10_000
    assert "too many pixels" in refused(ask(seeing, messages=user("See ", image(bomb))))
    assert ask(seeing).status_code == 200


NESTED: dict[str, Any] = {"type": "string"}
for _ in range(40):
    NESTED = {"type": "object", "properties": {"a": NESTED}, "required": ["a"]}
LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
TREE = {
    "properties": {"a": {"$ref": "#/$defs/t"}}, "required": ["a"],
    "$defs": {"t": {"type": "object", "properties": {"l": {"$ref": "#/$defs/t"}, "r": {"$ref": "#/$defs/t"}}}},
}  # fmt: skip


@pytest.mark.parametrize(
    "parameters",
    [
        NESTED,
        LOOP,
        TREE,
        {"properties": {"a": {"type": "array", "items": {"type": "array"}, "maxItems": 10**9}}},
        {"properties": {"a": {"type": "string", "maxLength": 10**9}}},
        {"properties": {"a": {"type": "string", "minLength": 10**30}}},
        {"properties": {f"p{i}": {"enum": ["x" * 50] * 20} for i in range(200)}},
        {"properties": 5, "required": "a"},
        {"properties": {"a": {"allOf": 5}, "b": {"type": "array", "items": 5}, "c": {"enum": "x"}}},
        {"properties": {"a": {"type": ["x", 5, None], "anyOf": [5], "enum": 7}}},
        {"properties": {"a": {"type": "array", "minItems": "x"}}, "required": [[]]},
        {"properties": {"a": {"$ref": "#/" + "a/" * 10_000}}},
    ],
)
def test_schemas_of_tools_that_are_wicked(seeing: httpx.Client, parameters: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    began = time.monotonic()
    response = ask(seeing, tools=tools, tool_choice="required", thinking={"type": "disabled"})
    if response.status_code != 200:
        refused(response)
    assert ask(seeing).status_code == 200
    assert time.monotonic() - began < 20


def test_arguments_and_patterns_that_are_wicked(seeing: httpx.Client) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "[" * 200_000}}
    tool = {"role": "tool", "tool_call_id": "1", "content": "x"}
    tools = [{"type": "function", "function": {"name": "f"}}]
    messages = [*HI, {"role": "assistant", "tool_calls": [call]}, tool]
    assert "not JSON" in refused(ask(seeing, messages=messages, tools=tools))
    for source in ("(" * 10_000, "(a{1000}){1000}", "(.*a){50}" * 50, "a{999999999}"):
        response = ask(seeing, response_format={"type": "regex", "regex": source})
        if response.status_code != 200:
            refused(response)
    assert ask(seeing).status_code == 200
