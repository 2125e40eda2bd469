"""Endpoints that upstreams don't have: responses, messages, batches and code over servers that complete chats."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI

from helpers.live_server import eventually, live_server
from helpers.raw_server import raw_server
from helpers.sayings import say
from helpers.scripted import ScriptedLLM, ScriptedService
from minimax_code.skills.calibration import Calibration
from openm3.engine.fairness import ALONE, Share
from openm3.engine.llm import LLM
from openm3.engine.output import Event
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.engine.service import Service
from openm3.text.m3 import NAMESPACE as NS

NAMED = ("m=scripted",)
HI: Any = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
ADD: Any = {"name": "add", "description": "Adds.", "input_schema": SCHEMA}
THOUGHT = "<mm:think>I must add.</mm:think>"
CALL = f'{NS}<tool_call>\n{NS}<invoke name="add">{NS}<a>2{NS}</a>{NS}<b>3{NS}</b>{NS}</invoke>\n{NS}</tool_call>'


@pytest.fixture(scope="module")
def gateway() -> Generator[tuple[ScriptedService, str], None, None]:
    service = ScriptedService()
    with live_server(service) as upstream, live_server(None, upstreams=(upstream,)) as url:
        yield service, url


def test_responses_are_gone_on_with_whatever_upstream_answers(gateway: tuple[ScriptedService, str]) -> None:
    service, url = gateway
    service.requests.clear()
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        first = client.responses.create(model="default", input="one", instructions="Be short.", max_output_tokens=2)
        assert (first.output_text, first.status, first.model) == ("Hello,", "incomplete", "default")
        assert first.usage and first.usage.output_tokens == 2
        events = list(client.responses.create(model="default", input="two", previous_response_id=first.id, stream=True))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello, world!"
        assert events[-1].type == "response.completed" and events[-1].response.usage
        assert client.responses.retrieve(first.id).output_text == "Hello,"
    prompts = [bytes(prompt).decode() for prompt, _ in service.requests]
    assert prompts == ["<system>Be short.\n<user>one\n", "<user>one\n<assistant>Hello,\n<user>two\n"]


def test_messages_think_and_call_tools_over_an_upstream(m3_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        live_server(Service(m3_llm)) as upstream,
        live_server(None, upstreams=(upstream,)) as url,
        Anthropic(base_url=url, api_key="none", max_retries=0) as client,
    ):
        say(f"{THOUGHT}Let me see.{CALL}{CALL}", monkeypatch)
        asked: Any = {"model": "default", "max_tokens": 500, "messages": HI, "tools": [ADD]}
        asked["thinking"] = {"type": "adaptive"}
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        for answer in (whole, streamed):
            assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
            assert answer.content[0].thinking == "I must add."  # type: ignore[union-attr]
            assert answer.content[2].input == {"a": 2, "b": 3}  # type: ignore[union-attr]
            assert answer.stop_reason == "tool_use" and answer.usage.output_tokens > 20


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (b'HTTP/1.1 400 x\r\nconnection: close\r\n\r\n{"error": {"message": "no", "code": "bad"}}', 400, "no"),
        (b"HTTP/1.1 500 x\r\nconnection: close\r\n\r\nInternal Server Error", 500, "Internal Server Error"),
        (b'HTTP/1.1 200 x\r\nconnection: close\r\n\r\ndata: {"choices": []}\n\n', 502, "broken off"),
        (b'HTTP/1.1 200 x\r\nconnection: close\r\n\r\ndata: {"error": {"message": "boom"}}\n\n', 502, "boom"),
        (
            b'HTTP/1.1 200 x\r\nconnection: close\r\n\r\ndata: {"choices": [{"finish_reason": "stop", "delta": '
            b'{"tool_calls": [{"index": 0, "function": {"name": "add", "arguments": "{"}}]}}]}\n\n',
            502,
            "has no JSON object",
        ),
    ],
)
def test_what_goes_wrong_there_is_said_in_the_words_of_the_endpoint(answer: bytes, status: int, code: str) -> None:
    def serve(head: bytes, connection: socket.socket) -> None:
        connection.sendall(answer)

    with raw_server(serve) as upstream, live_server(None, upstreams=(upstream,)) as url:
        message = httpx.post(f"{url}/v1/messages", json={"model": "scripted", "max_tokens": 5, "messages": HI})
        made = httpx.post(f"{url}/v1/responses", json={"model": "scripted", "input": "hi"})
        written = httpx.post(f"{url}/v1/code/generate", json={"model": "scripted", "prompt": "hi"})
    assert message.status_code == made.status_code == written.status_code == status
    assert message.json()["type"] == "error" and code in message.json()["error"]["message"]
    assert code in made.json()["error"]["message"]
    assert written.json()["error"] == made.json()["error"]


def test_what_can_not_be_had_of_an_upstream_is_refused(gateway: tuple[ScriptedService, str]) -> None:
    body = {"model": "default", "input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    refused = httpx.post(f"{gateway[1]}/v1/responses", json=body)
    assert refused.status_code == 400 and "logprobs" in refused.json()["error"]["message"]
    other = httpx.post(f"{gateway[1]}/v1/responses", json={"model": "gpt-9", "input": "hi"})
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


def test_code_is_written_by_an_upstream() -> None:
    service = ScriptedService(tokens=["```python app.py\n", "x = 1\n", "```\n"], llm=ScriptedLLM(max_context=10_000))
    with live_server(service) as upstream, live_server(None, upstreams=(upstream,), upstream_models=NAMED) as url:
        asked = {"model": "m", "prompt": "One.", "max_tokens": 50, "seed": 1}
        whole = httpx.post(f"{url}/v1/code/generate", json=asked, timeout=60).json()
        streamed = httpx.post(f"{url}/v1/code/generate", json=asked | {"stream": True}, timeout=60).text
        metrics = httpx.get(f"{url}/metrics").text
        other = httpx.post(f"{url}/v1/code/generate", json={"prompt": "One.", "model": "gpt-9"})
    assert (whole["model"], whole["files"][0]["content"]) == ("m", "x = 1\n")
    (prompt, params), _ = service.requests
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (len(prompt), 3)
    assert (params.max_tokens, params.seed) == (50, 1)
    *chunks, last = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["content"] for chunk in chunks) == last["content"] == whole["content"]
    assert 'generation_tokens_total{model_name="m"} 6' in metrics
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


class BreaksLater(ScriptedService):
    """An engine that is whole for so many requests."""

    num_good = 1000

    def stream(
        self, prompt: Prompt | Sequence[int], params: SamplingParams, share: Share = ALONE
    ) -> AsyncGenerator[Event, None]:
        self.fails_after = 0 if len(self.requests) >= self.num_good else None
        return super().stream(prompt, params, share)


def test_code_is_reviewed_by_an_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENM3_HOME", str(tmp_path))
    finding = "main.py:1: [high] `x = 1 / 0` divides by zero"
    service = BreaksLater(tokens=[finding], llm=ScriptedLLM(max_context=10_000))
    asked = {"model": "m", "code": "x = 1 / 0\n", "with_model": True}
    with (
        live_server(service) as upstream,
        live_server(None, upstreams=(upstream,), upstream_models=NAMED) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        unread = client.post("/v1/code/review", json=asked).json()
        assert unread["model"] is None and "can't judge" in unread["notice"]
        assert unread["usage"]["prompt_tokens"] == sum(len(prompt) for prompt, _ in service.requests)
        [known] = (tmp_path / "calibrations").iterdir()
        assert Calibration.model_validate_json(known.read_bytes()).model == "scripted"  # m may be another one tomorrow
        known.write_text(Calibration(model="scripted", judges=True).model_dump_json())
        service.requests.clear()
        read = client.post("/v1/code/review", json=asked).json()
        assert read["model"] == "m" and "has read main.py" in read["notice"] and "stand by" in read["notice"]
        assert read["usage"]["completion_tokens"] == len(service.requests) == 3  # a look, and another in both orders
        service.num_good = len(service.requests) + 1
        broken = client.post("/v1/code/review", json=asked)
        assert (broken.status_code, broken.json()["error"]["code"]) == (502, "internal_error")


def test_facts_need_no_upstream_and_a_model_that_reads_has_a_window() -> None:
    def never(head: bytes, connection: socket.socket) -> None:
        raise AssertionError("nothing is asked")

    with raw_server(never) as upstream, live_server(None, upstreams=(upstream,)) as url:
        facts = httpx.post(f"{url}/v1/code/review", json={"code": "import os\n"}, timeout=60)
        assert facts.status_code == 200 and facts.json()["model"] is None
        named = httpx.post(f"{url}/v1/code/review", json={"code": "x\n", "model": "gpt-9"})
        assert (named.status_code, named.json()["error"]["code"]) == (404, "model_not_found")
        asked = {"model": "scripted", "code": "x = 1\n", "with_model": True}
        unknown = httpx.post(f"{url}/v1/code/review", json=asked, timeout=60)
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "model")
        assert "doesn't say how long its window is" in unknown.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "asked"), [("/v1/chat/completions", {"messages": HI}), ("/v1/embeddings", {"input": "abc"})]
)
def test_batches_are_answered_by_upstreams(tmp_path: Path, path: Any, asked: dict[str, Any]) -> None:
    lines = [{"custom_id": str(i), "method": "POST", "url": path, "body": {"model": "m", **asked}} for i in range(20)]
    lines.append({"custom_id": "other", "method": "POST", "url": path, "body": {"model": "gpt-9", **asked}})
    with (
        live_server(ScriptedService()) as upstream,
        live_server(None, upstreams=(upstream,), upstream_models=("m=scripted",), data=str(tmp_path)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=path, completion_window="24h")
        assert eventually(lambda: client.batches.retrieve(batch.id).status == "completed", 10)
        batch = client.batches.retrieve(batch.id)
        assert batch.request_counts and (batch.request_counts.completed, batch.request_counts.failed) == (20, 1)
        answers = [json.loads(line) for line in client.files.content(str(batch.output_file_id)).text.splitlines()]
        assert {answer["response"]["body"]["model"] for answer in answers} == {"m"}
        [error] = [json.loads(line) for line in client.files.content(str(batch.error_file_id)).text.splitlines()]
        assert (error["custom_id"], error["response"]["status_code"]) == ("other", 404)
