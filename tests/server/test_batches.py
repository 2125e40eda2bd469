"""`/v1/batches` with the official client on a real socket."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, ConflictError, NotFoundError, OpenAI

from helpers.live_server import eventually, live_server
from helpers.scripted import ScriptedService
from helpers.sentence import write_sentence_model
from openm3.server.accounts.database import Database
from openm3.server.accounts.keys import KeyStore
from openm3.server.accounts.ledger import Ledger


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path) -> Generator[str, None, None]:
    write_sentence_model(data / "letters")
    with live_server(
        ScriptedService(), data=str(data), embeddings=str(data / "letters"), max_batch_requests=1000
    ) as url:
        yield url


def line(custom_id: str, url: str = "/v1/chat/completions", **body: Any) -> str:
    body = body or {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "default", **body}})


def begin(client: OpenAI, lines: list[str], endpoint: str = "/v1/chat/completions") -> Any:
    file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,
        completion_window="24h",
        metadata={"night": "1"},  # type: ignore[arg-type]
    )


def ended(client: OpenAI, batch: Any) -> Any:
    for _ in range(600):
        found = client.batches.retrieve(batch.id)
        if found.status not in ("validating", "in_progress", "finalizing", "cancelling"):
            return found
        time.sleep(0.02)
    raise AssertionError(f"the batch is still {found.status}")


def results(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    lines = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    assert len({one["custom_id"] for one in lines}) == len(lines)
    return {one["custom_id"]: one for one in lines}


def test_answers_and_errors_have_a_file_each(client: OpenAI) -> None:
    lines = [line(f"id {i}") for i in range(30)]
    lines += [
        line("wrong", messages=[{"role": "user", "content": "hi"}], temprature=1),
        line("other", model="gpt-9", messages=[]),
    ]
    batch = ended(client, begin(client, lines))
    assert (batch.status, batch.request_counts.total) == ("completed", 32)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (30, 2)
    assert batch.metadata == {"night": "1"} and batch.completed_at >= batch.in_progress_at >= batch.created_at
    good, bad = results(client, batch.output_file_id), results(client, batch.error_file_id)
    assert set(good) == {f"id {i}" for i in range(30)}
    assert good["id 3"]["response"]["body"]["choices"][0]["message"]["content"] == "Hello,"
    assert bad["wrong"]["response"]["status_code"] == 400
    assert bad["wrong"]["response"]["body"]["error"]["param"] == "temprature"
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    assert batch.id in [one.id for one in client.batches.list()]


def test_embeddings_in_a_batch(client: OpenAI) -> None:
    lines = [line(f"{i}", "/v1/embeddings", input="abc" * i) for i in range(1, 4)]
    batch = ended(client, begin(client, lines, "/v1/embeddings"))
    got = results(client, batch.output_file_id)
    assert len(got["2"]["response"]["body"]["data"][0]["embedding"]) == 32


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([line("a"), "{"], "invalid_line", 2),
        ([line("a"), line("a")], "invalid_line", 2),
        ([line("a", "/v1/completions", prompt="x")], "invalid_line", 1),
        ([line("a", "/etc/passwd")], "invalid_line", 1),
        (['{"custom_id": 1}'], "invalid_line", 1),
        (["[" * 100_000], "invalid_line", 1),
        ([" "], "empty_file", None),
    ],
)
def test_a_file_that_holds_something_else_fails(
    client: OpenAI, lines: list[str], code: str, number: int | None
) -> None:
    batch = ended(client, begin(client, lines))
    assert batch.status == "failed" and batch.output_file_id is None
    [problem] = batch.errors.data
    assert (problem.code, problem.line) == (code, number)


def test_a_million_lines_are_refused_while_others_are_served(client: OpenAI, server: str) -> None:
    file = client.files.create(
        file=("in.jsonl", (line("x") + "\n").encode() * 10 + b"{}\n" * 1_000_000), purpose="batch"
    )
    began = time.monotonic()
    many = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert httpx.get(f"{server}/healthz").status_code == 200
    assert ended(client, many).status == "failed"
    lines = "".join(line(str(i)) + "\n" for i in range(1001)).encode() + b"x\n" * 1_000_000
    file = client.files.create(file=("in.jsonl", lines), purpose="batch")
    many = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    [problem] = ended(client, many).errors.data
    assert (problem.code, problem.line) == ("too_many_requests", 1001)
    assert time.monotonic() - began < 20


def test_a_batch_is_cancelled_and_keeps_what_was_answered(tmp_path: Path) -> None:
    service = ScriptedService(delay_s=0.02)
    with live_server(service, data=str(tmp_path)) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        batch = begin(client, [line(str(i)) for i in range(500)])
        assert eventually(lambda: client.batches.retrieve(batch.id).status == "in_progress", 10)
        assert eventually(lambda: len(service.requests) > 20, 10)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = ended(client, batch)
        assert (batch.status, batch.cancelled_at is not None) == ("cancelled", True)
        assert 0 < batch.request_counts.completed < 500
        assert len(results(client, batch.output_file_id)) == batch.request_counts.completed
        with pytest.raises(ConflictError, match="has ended"):
            client.batches.cancel(batch.id)


def test_a_batch_goes_on_after_a_restart_and_answers_nothing_twice(tmp_path: Path) -> None:
    first, second = ScriptedService(delay_s=0.02), ScriptedService()
    with (
        live_server(first, data=str(tmp_path), grace_s=0) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none") as client,
    ):
        batch = begin(client, [line(str(i)) for i in range(200)])
        assert eventually(lambda: len(first.requests) > 60, 20)
    [folder] = (tmp_path / "batches").glob("*/batch_*")
    with (folder / "output.jsonl").open("ab") as out:  # as if it had been killed in the middle of a line
        num_before = len((folder / "output.jsonl").read_bytes().splitlines())
        out.write(b'{"id": "batch_req_12", "custom_')
    assert 0 < num_before < 200
    with live_server(second, data=str(tmp_path)) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        batch = ended(client, batch)
        assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 200, 0)
        assert len(results(client, batch.output_file_id)) == 200
        assert len(second.requests) == 200 - num_before


def test_a_batch_that_its_day_ends_keeps_what_was_answered(tmp_path: Path) -> None:
    first, second = ScriptedService(delay_s=0.02), ScriptedService()
    with (
        live_server(first, data=str(tmp_path), grace_s=0) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none") as client,
    ):
        batch = begin(client, [line(str(i)) for i in range(200)])
        assert eventually(lambda: len(first.requests) > 60, 20)
    [saved] = (tmp_path / "batches").glob("*/batch_*/batch.json")
    record = json.loads(saved.read_text())
    record["batch"]["expires_at"] = int(time.time()) - 1  # as if the server had been away for a day
    saved.write_text(json.dumps(record))
    with live_server(second, data=str(tmp_path)) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        batch = ended(client, batch)
        assert (batch.status, batch.expired_at is not None, batch.completed_at) == ("expired", True, None)
        assert 0 < batch.request_counts.completed < 200
        assert len(results(client, batch.output_file_id)) == batch.request_counts.completed
    assert not second.requests


@pytest.mark.parametrize("revoked", [False, True])
def test_a_batch_of_a_key_goes_on_as_that_key_after_a_restart(tmp_path: Path, revoked: bool) -> None:
    database = Database(str(tmp_path / "accounts.db"))
    database.migrate()
    keys = KeyStore(database)
    key, text = keys.create(name="night", plan="ultra")
    _, other = keys.create(name="other", plan="ultra")
    first, second = ScriptedService(delay_s=0.02), ScriptedService()
    settings: dict[str, Any] = {"data": str(tmp_path), "database": database.url}
    with live_server(first, grace_s=0, **settings) as url, OpenAI(base_url=f"{url}/v1", api_key=text) as client:
        batch = begin(client, [line(str(i)) for i in range(100)])
        assert eventually(lambda: len(first.requests) > 40, 20)
    if revoked:
        keys.revoke(key.id)
        keys.create(name="", plan="ultra")
    with live_server(second, **settings) as url:
        if revoked:
            [saved] = (tmp_path / "batches").glob("*/batch_*/batch.json")
            assert eventually(lambda: json.loads(saved.read_text())["batch"]["status"] == "failed", 10)
            assert "expired or revoked" in saved.read_text() and not second.requests
        else:
            with OpenAI(base_url=f"{url}/v1", api_key=text) as client:
                batch = ended(client, batch)
                assert (batch.status, batch.request_counts.completed) == ("completed", 100)
                assert len(results(client, batch.output_file_id)) == 100
            assert {share.name for share in second.shares} == {key.id}
            missing = httpx.get(f"{url}/v1/batches/{batch.id}", headers={"authorization": f"Bearer {other}"})
            assert missing.status_code == 404
    used = sum(row.prompt_tokens + row.answer_tokens for row in Ledger(database).usage(key.id))
    prompt = len("<user>hi\n")
    if not revoked:  # what was being answered when the first server ended is charged too: 16 at most
        assert 100 * (prompt + 2) <= used <= 116 * (prompt + 2)
    database.close()


def test_wrong_questions(client: OpenAI, server: str) -> None:
    file = client.files.create(file=("in.jsonl", line("a").encode()), purpose="batch")
    for changes, error in (
        ({"input_file_id": "file-no"}, NotFoundError),
        ({"endpoint": "/v1/images"}, BadRequestError),
        ({"completion_window": "1h"}, BadRequestError),
        ({"metadata": {"a": "x" * 600}}, BadRequestError),
    ):
        asked = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **changes}
        with pytest.raises(error):
            client.batches.create(**asked)  # type: ignore[arg-type]
    for path in ("batch_no", "batch_" + "0" * 32, "..%2f.."):
        assert httpx.get(f"{server}/v1/batches/{path}").status_code == 404
        assert httpx.post(f"{server}/v1/batches/{path}/cancel").status_code == 404
