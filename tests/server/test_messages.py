"""The official Anthropic client on a real socket, and what this shape refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import message_count_tokens_params, message_create_params

from helpers.live_server import live_server
from helpers.sayings import say
from helpers.scripted import ScriptedService
from helpers.seeing_m3 import data_url, png
from openm3.engine.llm import LLM
from openm3.engine.service import Service
from openm3.server.schema.messages import CountRequest, MessagesRequest
from openm3.text.m3 import NAMESPACE as NS

HI: list[Any] = [{"role": "user", "content": "hi"}]
ADD: Any = {
    "name": "add",
    "description": "Adds.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"type": "integer", "maximum": 99}},
        "required": ["a", "b"],
    },
}
THOUGHT = "<mm:think>I must add.</mm:think>"
CALL = f'{NS}<tool_call>\n{NS}<invoke name="add">{NS}<a>2{NS}</a>{NS}<b>3{NS}</b>{NS}</invoke>\n{NS}</tool_call>'


@pytest.fixture(params=["", "/anthropic"])
def scripted(server: str, request: pytest.FixtureRequest) -> Generator[Anthropic, None, None]:
    with Anthropic(base_url=server + request.param, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def thinking(m3_llm: LLM) -> Generator[Anthropic, None, None]:
    with live_server(Service(m3_llm)) as url, Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_whole_answer(scripted: Anthropic, service: ScriptedService) -> None:
    answer = scripted.messages.create(
        model="default", max_tokens=50, messages=HI, system="Be kind.", stop_sequences=["ld"],
        metadata={"user_id": "somebody"}, extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 5},
    )  # fmt: skip
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "scripted")
    assert answer.id.startswith("msg_") and str(answer._request_id).startswith("req_")
    [block] = answer.content
    assert block.type == "text" and block.text == "Hello, wor"
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "ld")
    [(prompt, params)] = service.requests
    assert bytes(prompt).decode() == "<system>Be kind.\n<user>hi\n"
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.5, 0.9, 5, 50)
    assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) == len(prompt)
    assert (answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (len(prompt) // 2, 3)


@pytest.mark.parametrize(("max_tokens", "reason"), [(2, "max_tokens"), (50, "end_turn")])
def test_events_come_in_the_published_order(scripted: Anthropic, max_tokens: int, reason: str) -> None:
    events: list[Any] = list(scripted.messages.create(model="default", max_tokens=max_tokens, messages=HI, stream=True))
    kinds = [event.type for event in events]
    deltas = kinds.count("content_block_delta")
    assert kinds == [
        "message_start", "content_block_start", *["content_block_delta"] * deltas,
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert events[0].message.content == [] and events[0].message.usage.input_tokens == 9
    assert "".join(event.delta.text for event in events[2:-3]) == ("Hello, world!" if max_tokens > 9 else "Hello,")
    assert events[-2].delta.stop_reason == reason
    assert events[-2].usage.output_tokens == deltas


def test_the_stream_on_the_wire(server: str) -> None:
    body = {"model": "default", "max_tokens": 1, "messages": HI, "stream": True}
    response = httpx.post(f"{server}/anthropic/v1/messages?beta=true", json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["request-id"] == response.headers["x-request-id"]
    names = [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")]
    kinds = [json.loads(line[6:])["type"] for line in response.text.splitlines() if line.startswith("data: ")]
    assert names == kinds and names[1] == "ping"


def test_sixteen_at_once() -> None:
    async def ask(client: AsyncAnthropic, number: int) -> str:
        messages: list[Any] = [{"role": "user", "content": str(number)}]
        if number % 2:
            async with client.messages.stream(model="default", max_tokens=50, messages=messages) as stream:
                return await stream.get_final_text()
        answer = await client.messages.create(model="default", max_tokens=50, messages=messages)
        return answer.content[0].text if answer.content[0].type == "text" else ""

    async def ask_all(url: str) -> list[str]:
        async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(16)))

    with live_server(ScriptedService(delay_s=0.02)) as url:
        assert asyncio.run(ask_all(url)) == ["Hello, world!"] * 16


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_text_and_a_call_and_the_way_back(
    thinking: Anthropic, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"model": "default", "max_tokens": 1900, "tools": [ADD], "thinking": {"type": "adaptive"}}

    def ask(messages: list[Any]) -> Any:
        if not stream:
            return thinking.messages.create(messages=messages, **options)
        with thinking.messages.stream(messages=messages, **options) as events:
            return events.get_final_message()

    say(f"{THOUGHT}Let me see.{CALL}{CALL}", monkeypatch)
    answer = ask(HI)
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
    thought, text, first, second = answer.content
    assert (thought.thinking, text.text, answer.stop_reason) == ("I must add.", "Let me see.", "tool_use")
    assert len(thought.signature) == 32 and first.id != second.id
    assert (first.name, first.input) == ("add", {"a": 2, "b": 3})
    assert answer.usage.output_tokens_details.thinking_tokens > 5

    prompts: list[str] = []
    monkeypatch.setattr(LLM, "encode_chat", _listening(prompts))
    say("It is 5.", monkeypatch)
    results = [
        {"type": "tool_result", "tool_use_id": first.id, "content": "5"},
        {
            "type": "tool_result",
            "tool_use_id": second.id,
            "content": [{"type": "text", "text": "bad"}],
            "is_error": True,
        },
        {"type": "text", "text": "So?"},
    ]
    turns = [*HI, {"role": "assistant", "content": [block.model_dump() for block in answer.content]}]
    answer = ask([*turns, {"role": "user", "content": results}])
    assert [block.text for block in answer.content] == ["It is 5."]
    assert "]~b]tool\n<response>5</response>\n<response>Error:bad</response>[e~[\n]~b]user\nSo?[e~[\n" in prompts[-1]
    ask([*turns, {"role": "user", "content": results[:2]}])
    assert f"]~b]ai\n{THOUGHT}Let me see.\n" in prompts[-1]


def _listening(prompts: list[str]) -> Any:
    encode = LLM.encode_chat

    def listening(self: LLM, *args: Any, **options: Any) -> Any:
        prompt = encode(self, *args, **options)
        prompts.append(self.tokenizer.decode(prompt.ids, skip_special=False))
        return prompt

    return listening


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({}, "</mm:think>"),
        ({"thinking": {"type": "disabled"}}, "</mm:think>"),
        ({"thinking": {"type": "adaptive"}}, "]~b]ai\n"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "<mm:think>"),
        ({"output_config": {"effort": "high"}}, "<mm:think>"),
    ],
)
def test_thinking_is_off_unless_asked_for(
    thinking: Anthropic, options: Any, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    monkeypatch.setattr(LLM, "encode_chat", _listening(prompts))
    answer = thinking.messages.create(model="default", max_tokens=20, messages=HI, **options)
    assert prompts[0].endswith(ending)
    if "budget_tokens" in options.get("thinking", {}):
        assert answer.usage.output_tokens_details and answer.usage.output_tokens_details.thinking_tokens <= 6


@pytest.mark.parametrize(
    "choice", [{"type": "any"}, {"type": "tool", "name": "add"}, {"type": "any", "disable_parallel_tool_use": True}]
)
def test_calls_that_are_required(thinking: Anthropic, choice: Any) -> None:
    answer = thinking.messages.create(model="default", max_tokens=999, messages=HI, tools=[ADD], tool_choice=choice)
    assert answer.stop_reason == "tool_use" and {block.type for block in answer.content} == {"tool_use"}
    call: Any = answer.content[0]
    assert call.name == "add" and max(call.input["a"], call.input["b"]) <= 99


def test_an_answer_by_a_schema(thinking: Anthropic) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    answer = thinking.messages.create(model="default", max_tokens=99, messages=HI, output_config=config)
    assert answer.content[0].type == "text" and set(json.loads(answer.content[0].text)) == {"ok"}


def test_tokens_are_counted_as_they_are_read(thinking: Anthropic, scripted: Anthropic) -> None:
    assert scripted.messages.count_tokens(model="default", messages=HI, system="x").input_tokens == len(
        "<system>x\n<user>hi\n"
    )
    source = {"type": "base64", "media_type": "image/png", "data": data_url(png(64, 64)).split(",")[1]}
    image: Any = {"type": "image", "source": source, "cache_control": {"type": "ephemeral"}}
    linked: Any = {"type": "image", "source": {"type": "url", "url": data_url(png(64, 64))}}
    asked: list[Any] = [{"role": "user", "content": [image, linked, {"type": "text", "text": "What is it?"}]}]
    counted = thinking.messages.count_tokens(model="default", messages=asked, tools=[ADD]).input_tokens
    answer = thinking.messages.create(model="default", max_tokens=2, messages=asked, tools=[ADD])
    assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) == counted


WRONG_IMAGE: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens: input should be greater than or equal to 1"),
        ({"temprature": 1}, "temprature: unknown field; did you mean 'temperature'?"),
        ({"temperature": 1.5}, "temperature: input should be less than or equal to 1"),
        ({"stop_sequences": ["x" * 1_000_000]}, "stop_sequences[0]: string should have at most 1000 characters"),
        ({"stop_sequences": [""]}, "stop_sequences: a stop string can't be empty"),
        ({"container": {}}, "container: not supported by this server"),
        ({"service_tier": "priority"}, "service_tier: 'priority' is not supported by this server"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens: belongs to type 'enabled'"),
        ({"thinking": {"type": "enabled", "budget_tokens": 50}}, "thinking.budget_tokens: must be less"),
        ({"thinking": {"type": "adaptive"}}, "thinking: is not for this model"),
        ({"output_config": {"effort": "high"}}, "output_config.effort: is not for this model"),
        ({"tools": [ADD]}, "tools: is not for this model"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type: 'web_search_20250305' is"),
        ({"tool_choice": {"type": "any"}}, "tool_choice: needs tools"),
        ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice.name: no tool has the name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name: belongs to type 'tool', which needs it"),
        ({"messages": []}, "messages: list should have at least 1 item"),
        ({"messages": [*HI, {"role": "assistant", "content": "The"}]}, "messages: the last one has to be the user's"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]},
         "messages[0].content[0]: must be of type 'text', 'image', 'video', 'thinking', 'tool_use' or 'tool_result'"),
        ({"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]},
         "messages[0].content: a block of type 'thinking' isn't for role 'user'"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]}]},
         "messages[0].content[0].tool_use_id: no message before it has the tool call '1'"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, WRONG_IMAGE]}]},
         "messages[0].content[1]: 'image_url' is not for this model"),
        ({"messages": [{"role": "user", "content": "x" * 2000}]}, "messages: has 2007 tokens; the window is 1000"),
    ],
)  # fmt: skip
def test_what_is_refused(server: str, fields: dict[str, Any], message: str) -> None:
    body = {"model": "default", "max_tokens": 50, "messages": HI} | fields
    response = httpx.post(f"{server}/v1/messages", json=body)
    assert response.status_code == 400
    told = response.json()
    assert set(told) == {"type", "error", "request_id", "base_resp"}
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
    assert told["error"]["message"].startswith(message)
    assert told["request_id"] == response.headers["request-id"]
    assert told["base_resp"]["status_code"] == (1039 if "window" in message else 2013)


def test_an_image_that_is_none_is_named_as_the_caller_wrote_it(thinking: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[1\].source"):
        asked: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "x"}, WRONG_IMAGE]}]
        thinking.messages.create(model="default", max_tokens=5, messages=asked)


def test_errors_of_other_statuses_have_the_shape_too(server: str) -> None:
    with (
        Anthropic(base_url=server, api_key="none", max_retries=0) as client,
        pytest.raises(anthropic.NotFoundError, match="does not exist"),
    ):
        client.messages.create(model="claude", max_tokens=5, messages=HI)
    for method, path, status, kind in (
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("GET", "/anthropic/nothing", 404, "not_found_error"),
    ):
        response = httpx.request(method, server + path)
        assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    response = httpx.post(f"{server}/v1/messages", content=b"[" * 100_000, headers={"content-type": "application/json"})
    assert response.json()["error"]["message"].startswith("the body is not valid JSON")


def test_a_stream_that_breaks_says_so() -> None:
    with (
        live_server(ScriptedService(fails_after=2)) as url,
        Anthropic(base_url=url, api_key="none") as client,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        list(client.messages.create(model="default", max_tokens=9, messages=HI, stream=True))
    assert "internal error" in str(caught.value) and "secret" not in str(caught.value)


def test_every_field_of_the_anthropic_api_is_known() -> None:
    create = message_create_params.MessageCreateParamsBase.__annotations__
    count = message_count_tokens_params.MessageCountTokensParams.__annotations__
    assert set(create) <= set(MessagesRequest.model_fields)
    assert set(count) <= set(CountRequest.model_fields)
