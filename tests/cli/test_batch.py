"""`openm3 batch` as users run it, killed and started again."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.command import openm3, openm3_process, start_openm3

WORK = [
    {"custom_id": f"id {i}", "prompt": f"{i}", "max_tokens": 5 * (i % 40) + 1, "temperature": 0} for i in range(120)
]


def arguments(source: Path, target: Path, model: Path) -> tuple[str | Path, ...]:
    return "batch", source, target, "-m", model, "--cache-gb", "0.1"


def run(source: Path, target: Path, model: Path) -> tuple[int, str]:
    done = openm3(*arguments(source, target, model))
    return done.returncode, done.stderr


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def results(path: Path) -> dict[str, Any]:
    """The responses by custom_id; each is there once."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line for line in lines}


def test_lines_of_all_kinds_and_wrong_ones(tiny_model: Path, tmp_path: Path) -> None:
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}
    source = write(
        tmp_path / "in.jsonl",
        [
            {"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": chat},
            {"custom_id": "plain", "url": "/v1/completions", "body": {"model": "tiny", "prompt": "a", "max_tokens": 3}},
            {"prompt": "b", "max_tokens": 2},
            "\n",
            {"custom_id": "simple", "messages": chat["messages"], "max_tokens": 4, "temperature": 0},
            {"custom_id": "regex", "prompt": "b", "response_format": {"type": "regex", "regex": "yes|no"}},
            "{not json\n",
            {"custom_id": "url", "url": "/v1/embeddings", "body": {}},
            {"custom_id": "field", "prompt": "b", "temprature": 1},
            {"custom_id": "model", "url": "/v1/chat/completions", "body": {**chat, "model": "gpt-4o"}},
            {"custom_id": "stream", "prompt": "b", "stream": True},
            {"custom_id": "long", "prompt": [1] * 600},
            {"custom_id": "what"},
            '["a"]',
        ],
    )
    target = tmp_path / "out.jsonl"
    done = openm3_process(*arguments(source, target, tiny_model))
    code, errors = done.returncode, done.stderr
    assert code == 0, errors
    assert "13 requests answered, 8 of them with an error" in errors
    got = results(target)
    bodies = {name: line["response"]["body"] for name, line in got.items() if line["response"]}
    assert bodies["chat"]["object"] == "chat.completion"
    assert bodies["chat"]["choices"] == bodies["simple"]["choices"]
    assert bodies["chat"]["usage"]["completion_tokens"] == 4
    assert bodies["line-3"]["usage"]["completion_tokens"] == 2
    assert bodies["plain"]["object"] == "text_completion"
    assert bodies["regex"]["choices"][0]["text"] in ("yes", "no")
    assert {name: line["response"]["status_code"] for name, line in got.items() if line["response"]} == {
        "chat": 200, "plain": 200, "line-3": 200, "simple": 200, "regex": 200,
        "field": 400, "model": 404, "stream": 400, "long": 400,
    }  # fmt: skip
    assert bodies["field"]["error"]["message"].startswith("temprature: unknown field")
    assert bodies["long"]["error"]["param"] == "prompt"
    problems = {name: line["error"]["message"] for name, line in got.items() if line["error"]}
    assert problems["line-7"].startswith("line 7 is not JSON")
    assert problems["url"] == "line 8: url must be one of /v1/chat/completions, /v1/completions"
    assert problems["what"] == "line 13: has no body, no messages and no prompt"
    assert problems["line-14"] == "line 14 is no JSON object"

    before = target.read_bytes()
    code, errors = run(source, target, tiny_model)
    assert (code, target.read_bytes()) == (0, before), "what is answered isn't asked again"
    assert "13 of 13 requests are answered" in errors


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of the work when nobody ends it."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(write(folder / "in.jsonl", WORK), folder / "out.jsonl", tiny_model)[0] == 0
    return results(folder / "out.jsonl")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_it_goes_on_where_it_was_ended(
    tiny_model: Path, tmp_path: Path, how: signal.Signals, whole: dict[str, Any]
) -> None:
    source, target = write(tmp_path / "in.jsonl", WORK), tmp_path / "out.jsonl"
    process = start_openm3(*arguments(source, target, tiny_model))
    deadline = time.monotonic() + 100
    while not (target.exists() and target.read_bytes().count(b"\n") >= 10):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    errors = process.communicate(timeout=60)[1].decode()
    assert "Traceback" not in errors
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "of 120 answered; the same command goes on" in errors
    if how is signal.SIGKILL:  # as if it had been in the middle of a line
        with target.open("ab") as out:
            out.write(b'{"id": "batch_req_12", "custom_')
    first = [line for line in target.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 10 <= len(first) < 120
    code, errors = run(source, target, tiny_model)
    assert code == 0, errors
    assert target.read_bytes().splitlines(keepends=True)[: len(first)] == first
    texts = [{name: line["response"]["body"]["choices"] for name, line in r.items()} for r in (results(target), whole)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 120


def test_an_id_that_is_there_twice_is_answered_once(tiny_model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"custom_id": "a", "prompt": p, "max_tokens": 1} for p in ("x", "y")])
    assert run(source, tmp_path / "out.jsonl", tiny_model)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["error"]["message"] for line in lines if line["error"]] == ["custom_id 'a' is there twice"]
    assert len(lines) == 2


@pytest.mark.parametrize("content", ["a novel of mine", '{"prompt": "a"}\n', "[1]\n"], ids=repr)
def test_a_file_of_something_else_is_left_alone(tiny_model: Path, tmp_path: Path, content: str) -> None:
    source, target = write(tmp_path / "in.jsonl", [{"prompt": "a"}]), tmp_path / "out.jsonl"
    target.write_text(content)
    code, errors = run(source, target, tiny_model)
    assert (code, errors) == (1, "error: OUT.jsonl: line 1 is no response of a batch; name another file\n")
    assert target.read_text() == content
    assert run(source, source, tiny_model) == (1, "error: OUT.jsonl: is IN.jsonl; name another file\n")
