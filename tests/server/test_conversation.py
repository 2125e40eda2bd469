"""Thinking, tool calls and images through the server, with a real engine whose sampler is told what to say."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from helpers.live_server import eventually, live_server
from helpers.sayings import say
from helpers.seeing_m3 import data_url, film, image, png, user
from helpers.videos import video
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
def service(m3_llm: LLM) -> Service:
    return Service(m3_llm)


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


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"), [("required", {"add"}), ({"type": "function", "function": {"name": "add"}}, {"add"})]
)
def test_calls_that_are_required_come_from_random_weights_too(
    client: OpenAI, choice: Any, names: set[str], stream: bool
) -> None:
    numbers = {"type": "integer", "minimum": 0, "maximum": 99}
    schema = {"type": "object", "properties": {"a": numbers, "b": numbers}, "required": ["a", "b"]}
    tools = [{"type": "function", "function": {"name": "add", "parameters": schema}}]
    options: dict[str, Any] = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False, "seed": 1}
    message, reason = complete(client, stream=stream, extra_body={"thinking": {"type": "disabled"}}, **options)
    assert (reason, message["content"]) == ("tool_calls", None)
    [call] = message["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert call["function"]["name"] in names
    assert set(arguments) == {"a", "b"} and all(0 <= value <= 99 for value in arguments.values())


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_at_a_time(client: OpenAI, service: Service, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    say(f"Let me see.{CALL}{CALL}", monkeypatch)
    message, reason = complete(client, tools=TOOLS, parallel_tool_calls=False, stream=stream)
    assert (len(message["tool_calls"]), message["content"], reason) == (1, "Let me see.", "tool_calls")
    assert eventually(lambda: service.status().running == 0)


def test_strict_tools_are_kept_to_without_being_required(client: OpenAI) -> None:
    tools = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    message, reason = complete(client, tools=tools, max_tokens=20, seed=1)
    assert reason == "length" and not message["tool_calls"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rest", ["Done.", CALL])
def test_thinking_in_the_content(
    client: OpenAI, service: Service, stream: bool, rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(THOUGHT + rest, monkeypatch)
    message, _ = complete(client, tools=TOOLS, stream=stream, extra_body={"reasoning_split": False})
    assert message["reasoning_content"] is None
    assert message["content"] == "<think>I must add.</think>" + (rest if rest == "Done." else "")

    given = service.llm.encode_chat
    seen: list[Any] = []
    monkeypatch.setattr(
        service.llm, "encode_chat", lambda messages, **options: seen.append(messages) or given(messages, **options)
    )
    back = [*HI, {"role": "assistant", "content": "<think>I must add.</think>Done."}, *HI]
    complete(client, back, extra_body={"reasoning_split": False})
    assert (seen[0][1]["reasoning_content"], seen[0][1]["content"]) == ("I must add.", "Done.")
    complete(client, back)
    assert "reasoning_content" not in seen[1][1]


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_in_details(client: OpenAI, service: Service, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    say(f"{THOUGHT}Done.", monkeypatch)
    options: dict[str, Any] = {"model": "default", "messages": HI, "extra_body": {"reasoning_split": True}}
    if stream:
        deltas = [
            chunk.choices[0].delta.model_dump() for chunk in client.chat.completions.create(stream=True, **options)
        ]
    else:
        deltas = [client.chat.completions.create(**options).choices[0].message.model_dump(exclude_none=True)]
    details = [detail for delta in deltas for detail in delta.get("reasoning_details") or ()]
    assert "".join(detail["text"] for detail in details) == "I must add."
    assert {(each["type"], each["format"], each["index"]) for each in details} == {
        ("reasoning.text", "MiniMax-response-v1", 0)
    }
    back = [*HI, {"role": "assistant", "content": "Done.", "reasoning_details": details}, *HI]
    assert complete(client, back)[0]["content"] == "Done."


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({"reasoning_effort": "none"}, "</mm:think>"),
        ({"reasoning_effort": "medium"}, "]~b]ai\n"),
        ({"reasoning_effort": "high"}, "<mm:think>"),
        ({"extra_body": {"thinking": {"type": "enabled", "budget_tokens": 7}}}, "<mm:think>"),
    ],
)
def test_efforts_of_thinking(
    client: OpenAI, service: Service, options: dict[str, Any], ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[Any] = []
    add = service.llm.engine.add

    def listening(prompt: Any, params: Any, *more: Any) -> Any:
        prompts.append((prompt, params))
        return add(prompt, params, *more)

    monkeypatch.setattr(service.llm.engine, "add", listening)
    answer = client.chat.completions.create(model="default", messages=HI, max_tokens=30, seed=1, **options)
    [(prompt, params)] = prompts
    assert service.llm.tokenizer.decode(prompt.ids, skip_special=False).endswith(ending)
    assert answer.usage and answer.usage.completion_tokens_details
    if params.max_thinking:
        assert answer.usage.completion_tokens_details.reasoning_tokens == 8  # and the marker that ends it


def test_biases(client: OpenAI, service: Service) -> None:
    tokenizer = service.llm.tokenizer
    x, end = tokenizer.encode("x")[0], min(tokenizer.eos_ids)
    options: dict[str, Any] = {"max_tokens": 5, "temperature": 0, "logit_bias": {str(x): 100, str(end): -100}}
    assert complete(client, extra_body={"thinking": {"type": "disabled"}}, **options)[0]["content"] == "xxxxx"
    with pytest.raises(BadRequestError, match="logit_bias: 999999 is no token id"):
        complete(client, logit_bias={"999999": 1})
