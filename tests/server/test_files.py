"""`/v1/files` with the official client on a real socket."""

from __future__ import annotations

import socket
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from helpers.live_server import live_server
from helpers.scripted import ScriptedService


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path) -> Generator[str, None, None]:
    settings = {"max_body_bytes": 10_000, "max_file_bytes": 300_000, "max_files_bytes": 1_000_000}
    with live_server(ScriptedService(), data=str(data), **settings) as url:
        yield url


def left(data: Path) -> list[str]:
    return [path.name for path in data.rglob("*") if path.is_file()]


def test_a_file_from_upload_to_deletion(client: OpenAI, data: Path) -> None:
    content = bytes(range(256)) * 1000  # more than other bodies may have
    file = client.files.create(file=("täglich.jsonl", content), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", 256_000, "täglich.jsonl", "batch")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    assert file in client.files.list().data
    assert client.files.delete(file.id).deleted
    with pytest.raises(NotFoundError, match="there is no file"):
        client.files.retrieve(file.id)
    assert not left(data)


def test_lists_have_pages_and_orders(client: OpenAI) -> None:
    made = [client.files.create(file=(f"{i}.txt", b"x"), purpose="user_data" if i % 2 else "batch") for i in range(5)]
    try:
        newest_first = [file.id for file in client.files.list()]
        assert newest_first == [file.id for file in reversed(made)]
        assert [file.id for file in client.files.list(limit=2)] == newest_first, "the client follows the pages"
        first = client.files.list(limit=2, order="asc")
        assert ([file.filename for file in first.data], first.has_more) == (["0.txt", "1.txt"], True)
        assert [file.filename for file in client.files.list(purpose="user_data", order="asc")] == ["1.txt", "3.txt"]
    finally:
        for file in made:
            client.files.delete(file.id)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../etc/passwd", "passwd"),
        ("..", "file"),
        ("C:\\Windows\\win.ini", "win.ini"),
        ("/dev/null", "null"),
        ("a\u202eb.txt", "ab.txt"),
        ("x" * 500, "x" * 255),
        ('a"; drop.txt', "a%22; drop.txt"),
    ],
)  # fmt: skip
def test_names_are_only_shown(server: str, data: Path, name: str, shown: str) -> None:
    made = httpx.post(f"{server}/v1/files", data={"purpose": "batch"}, files={"file": (name, b"x")}).json()
    assert made["filename"] == shown
    content = httpx.get(f"{server}/v1/files/{made['id']}/content")
    assert content.content == b"x"
    assert "\n" not in content.headers["content-disposition"]
    assert all(path.startswith("file-") for path in left(data))
    assert httpx.delete(f"{server}/v1/files/{made['id']}").status_code == 200


@pytest.mark.parametrize(
    "file_id", ["x", "..%2f..%2fetc%2fpasswd", "file-", "file-" + "0" * 32, "file-" + "g" * 32, "%00"]
)
def test_ids_lead_nowhere_else(server: str, file_id: str) -> None:
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert httpx.request(method, f"{server}/v1/files/{file_id}{path}").status_code == 404


def test_what_is_too_large_leaves_nothing(client: OpenAI, server: str, data: Path) -> None:
    with pytest.raises(Exception, match="413"):
        client.files.create(file=("a", b"x" * 300_001), purpose="batch")
    for _ in range(3):
        client.files.create(file=("a", b"x" * 300_000), purpose="batch")
    with pytest.raises(Exception, match=r"file: is more than 100,000 bytes"):
        client.files.create(file=("a", b"x" * 100_001), purpose="batch")
    for file in client.files.list():
        client.files.delete(file.id)
    declared = httpx.post(f"{server}/v1/files", content=iter([b"x" * 400_000]), headers={"content-type": "text/plain"})
    assert declared.status_code in (400, 413)
    assert not left(data)


@pytest.mark.parametrize(
    ("fields", "file", "param"),
    [
        ({}, b"x", "purpose"),
        ({"purpose": "fine-tune"}, b"x", "purpose"),
        ({"purpose": "x" * 2000}, b"x", "purpose"),
        ({"purpose": "batch", "colour": "red"}, b"x", "purpose"),
        ({"purpose": "batch"}, b"", "file"),
        ({"purpose": "batch"}, None, "file"),
    ],
)
def test_wrong_forms(server: str, data: Path, fields: dict[str, str], file: bytes | None, param: str) -> None:
    files = {"file": ("a", file)} if file is not None else {"other": (None, b"x")}
    response = httpx.post(f"{server}/v1/files", data=fields, files=files)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not left(data)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"garbage"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ncut'),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: attachment\r\n\r\ny\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: " + b"b" * 9000 + b"\r\n\r\ny\r\n--x--\r\n"),
        ("multipart/form-data; boundary=" + "x" * 200, b"--x"),
    ],
)
def test_garbage(server: str, data: Path, content_type: str, body: bytes) -> None:
    response = httpx.post(f"{server}/v1/files", content=body, headers={"content-type": content_type})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "file")
    assert not left(data)


def test_an_upload_that_is_cut_leaves_nothing(server: str, data: Path) -> None:
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port)) as client:
        form = "Content-Length: 90000\r\nContent-Type: multipart/form-data; boundary=x"
        part = '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        client.sendall(f"POST /v1/files HTTP/1.1\r\nHost: a\r\n{form}\r\n\r\n{part}".encode())
        client.sendall(b"y" * 50_000)
    for _ in range(200):
        if not left(data):
            break
        httpx.get(f"{server}/healthz")
    assert not left(data)


def test_wrong_questions(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="limit"):
        client.files.list(limit=0)
    with pytest.raises(BadRequestError, match="after"):
        client.files.list(after="file-none")
