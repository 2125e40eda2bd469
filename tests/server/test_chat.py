from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
import requests
from openai import AsyncOpenAI, BadRequestError, OpenAI

from helpers.live_server import live_server
from helpers.scripted import ScriptedService

HI: list[Any] = [{"role": "user", "content": "hi"}]


def test_whole_answer(client: OpenAI, service: ScriptedService) -> None:
    answer = client.chat.completions.create(model="scripted", messages=HI)

    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "scripted"
    assert answer.system_fingerprint == "fp_0123456789abcdef"
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello, world!")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("<user>hi\n")
    assert answer.usage.completion_tokens == 4
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens // 2
    assert service.num_cancelled == 0


def test_stream_is_role_then_text_then_reason_then_usage(client: OpenAI) -> None:
    with client.chat.completions.create(
        model="default", messages=HI, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)

    assert {chunk.object for chunk in [*chunks, last]} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in [*chunks, last]}) == 1
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", None, None, None, None]
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "Hello", ",", " world", "!"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (9, 4)


def test_stream_on_the_wire(server: str) -> None:
    body = {"model": "default", "messages": HI, "stream": True, "max_tokens": 1}
    response = httpx.post(f"{server}/v1/chat/completions", json=body)

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-request-id"].startswith("req_")
    opening, text, done, rest = response.text.split("\n\n")
    header = {"id", "created", "model", "system_fingerprint", "object"}
    assert set(json.loads(opening.removeprefix("data: "))) == header | {"choices"}
    assert json.loads(text.removeprefix("data: "))["choices"] == [
        {"index": 0, "delta": {"content": "Hello"}, "logprobs": None, "finish_reason": "length"}
    ]
    assert (done, rest) == ("data: [DONE]", "")


@pytest.mark.parametrize("stream", [False, True])
def test_sampling_options_reach_the_engine(client: OpenAI, service: ScriptedService, stream: bool) -> None:
    extra = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}
    options: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.25,
    }
    answer = client.chat.completions.create(
        model="default", messages=HI, seed=7, n=3, stop="or", max_completion_tokens=50, stream=stream,
        user="somebody", extra_body=extra, **options,
    )  # fmt: skip
    if stream:
        list(answer)

    assert {params.seed for _, params in service.requests} == {7, 8, 9}
    params = service.requests[0][1]
    assert {name: getattr(params, name) for name in options | extra} == options | extra
    assert (params.stop, params.max_tokens) == (("or",), 50)


def test_defaults_are_those_of_the_api(client: OpenAI, service: ScriptedService) -> None:
    client.chat.completions.create(model="default", messages=HI, temperature=None, stop=None, n=None)
    [(_, params)] = service.requests
    assert (params.temperature, params.top_p, params.max_tokens, params.seed) == (1.0, 1.0, None, None)


def test_n_choices_count_the_prompt_once(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="default", messages=HI, n=3, stop=["wor", "!"])

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"Hello, "}
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (9, 9)


def test_n_choices_in_a_stream(client: OpenAI) -> None:
    texts = ["", ""]
    reasons: list[Any] = [None, None]
    with client.chat.completions.create(model="default", messages=HI, n=2, stream=True) as stream:
        for chunk in stream:
            [choice] = chunk.choices
            assert reasons[choice.index] is None
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
    assert texts == ["Hello, world!"] * 2
    assert reasons == ["stop", "stop"]


def test_roles_and_text_parts(client: OpenAI, service: ScriptedService) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        client.chat.completions.create(model="default", messages=HI).choices[0].message,
    ]
    client.chat.completions.create(model="default", messages=messages)
    prompt = bytes(service.requests[-1][0]).decode()
    assert prompt == "<system>be kind\n<user>a\nb\n<assistant>Hello, world!\n"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_every_token_even_without_text_of_its_own(stream: bool) -> None:
    service = ScriptedService(tokens=("a", b"\xc3", b"\xa9", "!"))
    with live_server(service) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer: Any = client.chat.completions.create(
            model="default", messages=HI, logprobs=True, top_logprobs=2, stream=stream
        )
        parts = [part.choices[0] for part in answer] if stream else [answer.choices[0]]
    contents = [part.delta.content for part in parts] if stream else [parts[0].message.content]
    assert "".join(contents) == "aé!"
    if stream:
        assert contents == ["", "a", "é", "!"]
    tokens = [token for part in parts if part.logprobs for token in part.logprobs.content]
    assert [token.token for token in tokens] == ["a", "\ufffd", "\ufffd", "!"]
    assert [token.bytes for token in tokens] == [[97], [0xC3], [0xA9], [33]]
    assert [top.logprob for top in tokens[0].top_logprobs] == [-0.5, -9999.0]


def test_logprobs_alone_have_no_others(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="default", messages=HI, logprobs=True)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert [token.top_logprobs for token in answer.choices[0].logprobs.content] == [[], [], [], []]


def test_16_at_once() -> None:
    service = ScriptedService(delay_s=0.05)

    async def ask(client: AsyncOpenAI, number: int) -> str:
        messages: list[Any] = [{"role": "user", "content": str(number)}]
        if number % 2:
            stream = await client.chat.completions.create(model="default", messages=messages, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        answer = await client.chat.completions.create(model="default", messages=messages)
        return answer.choices[0].message.content or ""

    async def ask_all(url: str) -> list[str]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(16)))

    with live_server(service) as url:
        assert asyncio.run(ask_all(url)) == ["Hello, world!"] * 16
    assert len({bytes(prompt) for prompt, _ in service.requests}) == 16


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_window_is_refused_before_a_stream_begins(client: OpenAI, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "x" * 2000}]
    with pytest.raises(BadRequestError, match="window is 1000") as caught:
        client.chat.completions.create(model="default", messages=messages, stream=stream)
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")
    assert caught.value.response.json()["base_resp"]["status_code"] == 1039


def test_the_published_example_of_use(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The article's example of section 7.3, word for word but for the base URL."""
    # fmt: off
    API_KEY = "your-api-key"
    BASE_URL = f"{server}/v1"

    headers = {
        "Authorization": f"Bearer {API_KEY}",
        "Content-Type": "application/json"
    }

    # Code generation request
    payload = {
        "model": "minimax-m3",
        "messages": [
            {
                "role": "user",
                "content": "Write a Python function to implement binary search"
            }
        ],
        "max_tokens": 1000,
        "temperature": 0.7
    }

    response = requests.post(
        f"{BASE_URL}/chat/completions",
        headers=headers,
        json=payload
    )

    print(response.json())
    # fmt: on

    assert "'content': 'Hello, world!'" in capsys.readouterr().out
