from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from openai import APIError, InternalServerError, NotFoundError, OpenAI
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params

from helpers.live_server import live_server
from helpers.scripted import ScriptedService
from openm3.server.schema.chat import ChatRequest
from openm3.server.schema.completions import CompletionRequest
from openm3.server.settings import Settings

HI: list[Any] = [{"role": "user", "content": "hi"}]

Post = Callable[..., httpx.Response]


@pytest.fixture
def post(server: str) -> Iterator[Post]:
    with httpx.Client(base_url=server, headers={"content-type": "application/json"}) as client:
        yield lambda **request: client.post("/v1/chat/completions", **request)


def _error(response: httpx.Response, status: int = 400) -> tuple[str | None, str, str]:
    assert response.status_code == status
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    error, told = body.pop("error"), body.pop("base_resp")
    assert not body and told["status_msg"] == error["message"] and told["status_code"] > 1000
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return error["param"], error["code"], error["message"]


TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        ({"temprature": 1}, "temprature", "unknown_field", "unknown field; did you mean 'temperature'?"),
        ({"zzz": 1}, "zzz", "unknown_field", "zzz: unknown field"),
        ({"z" * 10_000: 1}, "z" * 64, "unknown_field", "unknown field"),
        ({"messages": [{"role": "user", "contnt": "x"}]}, "messages[0].contnt", "unknown_field", "'content'"),
        ({"tools": []}, "tools", "invalid_value", "at least 1 item"),
        ({"tools": [TOOL]}, "tools", "invalid_value", "tools: is not for this model"),
        ({"tools": [TOOL | {"type": "custom"}]}, "tools[0].type", "unsupported_field", "'custom' is not supported"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value",
         "match pattern"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value", "two of them have the same name"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value", "needs tools"),
        ({"tool_choice": "some"}, "tool_choice", "unsupported_field", "'some' is not supported by this server"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [TOOL]}, "tool_choice",
         "invalid_value", "no tool has the name 'f'"),
        ({"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "regex", "regex": "a"}}, "tools",
         "invalid_value", "not for this model"),
        ({"tools": [TOOL], "response_format": {"type": "regex", "regex": "a"}}, "response_format", "invalid_value",
         "doesn't go with tools"),
        ({"reasoning_effort": "much"}, "reasoning_effort", "unsupported_field", "'much' is not supported"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "invalid_value", "not for this model"),
        ({"reasoning_effort": "low", "thinking": {"type": "adaptive"}}, "reasoning_effort", "invalid_value", "one of"),
        ({"thinking": {"type": "disabled", "budget_tokens": 5}}, "thinking.budget_tokens", "invalid_value", "go with"),
        ({"thinking": {"type": "enabled"}}, "thinking", "invalid_value", "thinking: is not for this model"),
        ({"thinking": {"type": "much"}}, "thinking.type", "unsupported_field", "'much' is not supported"),
        ({"functions": []}, "functions", "unsupported_field", "functions: not supported by this server"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "invalid_value", "match pattern"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value", "from -100 to 100"),
        ({"store": True}, "store", "unsupported_field", "true is not supported"),
        ({"response_format": {"type": "xml"}}, "response_format", "unsupported_field", "'json_schema'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_field", "required"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schem": {}}}},
            "response_format.json_schema.schem",
            "unknown_field",
            "schema",
        ),
        ({"response_format": {"type": "json_object"}, "stop": "a"}, "stop", "invalid_value", "when it is whole"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role",
         "unsupported_field", "'function' is not supported by this server; input should be 'system'"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id",
         "invalid_value", "no message before it has the tool call '1'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_field", "required"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id",
         "invalid_value", "belongs to role 'tool', not to 'user'"),
        ({"messages": [{"role": "user", "content": "x", "reasoning_content": "y"}]}, "messages[0].reasoning_content",
         "invalid_value", "belongs to the assistant's messages, not to role 'user'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content[0]", "invalid_value", "'image_url' is not for this model"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
         "messages[0].content[0]", "unsupported_field", "must be of type 'text', 'image_url' or 'video_url'"),
        ({"messages": []}, "messages", "invalid_value", "at least 1 item"),
        ({"messages": None}, "messages", "invalid_value", "valid list"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_field", "required"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value",
         "must be a string or a list"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text",
         "missing_field", "required"),
        ({"model": 5}, "model", "invalid_value", "valid string"),
        ({"n": 9}, "n", "invalid_value", "less than or equal to 8"),
        ({"n": True}, "n", "invalid_value", "valid integer"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value", "at most 16 items"),
        ({"stop": ["x", 5]}, "stop[1]", "invalid_value", "valid string"),
        ({"stop": ""}, "stop", "invalid_value", "can't be empty"),
        ({"stop": "x" * 1_000_000}, "stop", "invalid_value", "at most 1000 characters"),
        ({"temperature": "1"}, "temperature", "invalid_value", "valid number"),
        ({"temperature": -1}, "temperature", "invalid_value", "from 0 to"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value", "at least 1"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "invalid_value", "one of them"),
        ({"seed": 2**63}, "seed", "invalid_value", "64 bits"),
        ({"seed": 2**63 - 1, "n": 2}, "seed", "invalid_value", "64 bits"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value", "20"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value", "needs stream"),
    ],
)  # fmt: skip
def test_bad_fields(post: Post, fields: dict[str, Any], param: str, code: str, message: str) -> None:
    told = _error(post(json={"model": "default", "messages": HI} | fields))
    assert told[:2] == (param, code)
    assert message in told[2]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_body"),
        (b"[]", "invalid_body"),
        (b"5", "invalid_body"),
        (b'{"model": ', "invalid_json"),
        (b'{"model": "\xff"}', "invalid_json"),
        (b'{"model": "default", "messages": ' + b"[" * 100_000, "invalid_json"),
        (b'{"model": "default", "messages": ' + b"[" * 500 + b"]" * 500 + b"}", "invalid_json"),
        (b'{"model": "default", "seed": ' + b"9" * 10_000 + b"}", "invalid_json"),
        (b'{"model": "default", "temperature": NaN}', "invalid_json"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b'{"\\ud800": 1}', "invalid_json"),
        ('{"model": "default"}'.encode("utf-16"), "invalid_json"),
    ],
)
def test_bad_bodies(post: Post, body: bytes, code: str) -> None:
    assert _error(post(content=body))[:2] == (None, code)


def test_a_form_is_not_read_as_json(post: Post) -> None:
    # A page in a browser may send forms to a local server without asking, but not JSON.
    headers = {"content-type": "text/plain"}
    response = post(content=b'{"model": "default", "messages": []}', headers=headers)
    assert _error(response)[1] == "invalid_body"


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit(post: Post, declared: bool) -> None:
    body = b" " * (Settings().max_body_bytes + 1)
    response = post(content=body if declared else (body[i : i + (1 << 20)] for i in range(0, len(body), 1 << 20)))
    assert _error(response, 413)[:2] == (None, "body_too_large")


def test_a_wrong_model(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match=r"'gpt-5' does not exist; this server has 'scripted'") as caught:
        client.chat.completions.create(model="gpt-5", messages=HI)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_wrong_path_and_a_wrong_method(server: str) -> None:
    assert _error(httpx.get(f"{server}/v1/nothing"), 404)[1] == "not_found"
    response = httpx.get(f"{server}/v1/chat/completions")
    assert _error(response, 405)[1] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


def test_an_engine_that_breaks_tells_nothing_of_its_inside(caplog: pytest.LogCaptureFixture) -> None:
    with (
        live_server(ScriptedService(fails_after=2)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        caplog.at_level(logging.ERROR),
    ):
        with pytest.raises(InternalServerError) as whole:
            client.chat.completions.create(model="default", messages=HI)
        received = []
        with pytest.raises(APIError) as streamed:
            for chunk in client.chat.completions.create(model="default", messages=HI, stream=True):
                received.append(chunk.choices[0].delta.content)

    assert received == ["", "Hello", ","]
    assert str(whole.value.request_id) in whole.value.message
    for error in (whole.value, streamed.value):
        assert error.code == "internal_error"
        assert "secret" not in str(error.body)
    assert caplog.text.count("RuntimeError: a secret of the engine") == 2
    assert str(whole.value.request_id) in caplog.text


def test_every_field_of_the_openai_api_is_known() -> None:
    chat = chat_params.CompletionCreateParamsBase.__annotations__
    completion = completion_params.CompletionCreateParamsBase.__annotations__
    assert set(chat) <= set(ChatRequest.model_fields)
    assert set(completion) <= set(CompletionRequest.model_fields)
