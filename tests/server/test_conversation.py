"""Thinking, tool calls and images through the server, with a real engine whose sampler is told what to say."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from helpers.live_server import live_server
from helpers.sayings import say
from helpers.seeing_m3 import data_url, film, image, png, user, write_seeing_m3
from helpers.videos import video
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.service import Service
from openm3.text.m3 import NAMESPACE as NS

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
        },
    }
]
THOUGHT = "<mm:think>I must add.</mm:think>"
CALL = f'{NS}<tool_call>\n{NS}<invoke name="add">{NS}<a>2{NS}</a>{NS}<b>3{NS}</b>{NS}</invoke>\n{NS}</tool_call>'
HI: list[Any] = [{"role": "user", "content": "2 + 3?"}]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = write_seeing_m3(tmp_path_factory.mktemp("models") / "m3")
    return Service(LLM(folder, EngineConfig(dtype="float32", max_context=2048)))


@pytest.fixture(scope="module")
def client(service: Service) -> Generator[OpenAI, None, None]:
    with live_server(service) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client: OpenAI, messages: list[Any] = HI, **options: Any) -> Any:
    """The first choice as an object with content, reasoning_content, tool_calls; and its finish reason."""
    options = {"model": "default", "messages": messages, **options}
    if not options.get("stream"):
        choice = client.chat.completions.create(**options).choices[0]
        message = choice.message.model_dump(exclude_unset=True)
        return {key: message.get(key) for key in ("content", "reasoning_content", "tool_calls")}, choice.finish_reason
    whole: dict[str, Any] = {"content": None, "reasoning_content": None, "tool_calls": None}
    reason = None
    for chunk in client.chat.completions.create(**options):
        [choice] = chunk.choices
        delta = choice.delta.model_dump(exclude_unset=True)
        for key in ("content", "reasoning_content"):
            if delta.get(key):
                whole[key] = (whole[key] or "") + delta[key]
        for call in delta.get("tool_calls", []):
            whole["tool_calls"] = [*(whole["tool_calls"] or []), call]
            assert call.pop("index") == len(whole["tool_calls"]) - 1
        reason = choice.finish_reason or reason
    return whole, reason


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_and_a_tool_call(client: OpenAI, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    say(f"{THOUGHT}Let me see.{CALL}", monkeypatch)
    message, reason = complete(client, tools=TOOLS, tool_choice="auto", stream=stream)
    assert (message["reasoning_content"], message["content"], reason) == ("I must add.", "Let me see.", "tool_calls")
    [call] = message["tool_calls"]
    assert call["id"].startswith("call_")
    assert (call["type"], call["function"]["name"]) == ("function", "add")
    assert json.loads(call["function"]["arguments"]) == {"a": 2, "b": 3}


@pytest.mark.parametrize("stream", [False, True])
def test_calls_alone_have_no_content(client: OpenAI, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    say(CALL + CALL, monkeypatch)
    message, reason = complete(client, tools=TOOLS, stream=stream)
    assert (message["content"], message["reasoning_content"], reason) == (None, None, "tool_calls")
    first, second = message["tool_calls"]
    assert first["id"] != second["id"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_cut_is_text(client: OpenAI, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    say(CALL, monkeypatch)
    message, reason = complete(client, tools=TOOLS, stream=stream, max_tokens=60)
    assert reason == "length"
    assert message["tool_calls"] is None
    assert message["content"].startswith("<tool_call>") and NS not in message["content"]


@pytest.mark.parametrize("options", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_nothing_is_called_that_was_not_offered(
    client: OpenAI, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    say(CALL, monkeypatch)
    message, reason = complete(client, **options)
    assert (message["tool_calls"], reason) == (None, "stop")
    assert message["content"].startswith("<tool_call>")


def test_the_answer_can_be_sent_back_with_results(
    client: OpenAI, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(THOUGHT + CALL, monkeypatch)
    answer = client.chat.completions.create(model="default", messages=HI, tools=TOOLS).choices[0].message
    assert answer.tool_calls
    messages = [*HI, answer, {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "5"}]
    prompts: list[str] = []
    encode = service.llm.encode_chat
    decode = service.llm.tokenizer.decode

    def listening(*args: Any, **options: Any) -> Any:
        prompt = encode(*args, **options)
        prompts.append(decode(prompt.ids, skip_special=False))
        return prompt

    monkeypatch.setattr(service.llm, "encode_chat", listening)
    say("It is 5.", monkeypatch)
    message, reason = complete(client, messages, tools=TOOLS)
    assert (message["content"], reason) == ("It is 5.", "stop")
    assert f"]~b]ai\n{THOUGHT}\n{CALL}[e~[\n]~b]tool\n<response>5</response>[e~[\n]~b]ai\n" in prompts[0]


@pytest.mark.parametrize(
    ("mode", "told", "expected"),
    [
        ("enabled", "I think.</mm:think>Done.", ("I think.", "Done.")),
        ("disabled", "Done.", (None, "Done.")),
        ("adaptive", f"{THOUGHT}Done.", ("I must add.", "Done.")),
    ],
)
def test_modes_of_thinking(
    client: OpenAI, mode: str, told: str, expected: tuple[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say(told, monkeypatch)
    message, _ = complete(client, extra_body={"thinking": {"type": mode}})
    assert (message["reasoning_content"], message["content"]) == expected


def test_images_and_videos_are_seen_and_counted(client: OpenAI, service: Service) -> None:
    def usage(messages: list[Any]) -> int:
        counted = client.chat.completions.create(model="default", messages=messages, max_tokens=2).usage
        assert counted is not None
        return counted.prompt_tokens

    messages = user("What is ", image(png(64, 64)), film(video(9)), "?")
    prompt = service.llm.encode_chat(messages)
    assert usage(messages) == len(prompt.ids)
    assert usage(user("What is ", "?")) == len(prompt.ids) - len(prompt.places) - len("]<]0.0 seconds[>[" * 2) - 6
    low = {"type": "image_url", "image_url": {"url": data_url(png()), "detail": "low"}}
    assert usage(user(low)) == usage(user(image(png())))


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, "messages[0].content[1].image_url"),
        (image(b"x"), "messages[0].content[1].image_url"),
        ({"type": "image_url", "image_url": {"url": data_url(png()), "detail": "x"}},
         "messages[0].content[1].image_url.detail"),
        ({"type": "image_url", "image_url": {}}, "messages[0].content[1].image_url.url"),
        ({"type": "video_url", "video_url": {"url": data_url(video(1)), "fps": 90.0}},
         "messages[0].content[1].video_url.fps"),
    ],
)  # fmt: skip
def test_what_is_refused(client: OpenAI, part: Any, field: str) -> None:
    with pytest.raises(BadRequestError) as error:
        client.chat.completions.create(model="default", messages=user("see", part))
    assert error.value.param == field
