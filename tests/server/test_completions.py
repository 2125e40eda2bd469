from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from helpers.live_server import live_server
from helpers.scripted import ScriptedService


def test_whole_answer(client: OpenAI) -> None:
    answer = client.completions.create(model="scripted", prompt="say")

    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == ("Hello, world!", "stop", None)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)


def test_stream(client: OpenAI) -> None:
    with client.completions.create(
        model="default", prompt="say", max_tokens=3, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)

    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert [chunk.choices[0].text for chunk in chunks] == ["Hello", ",", " world"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "length"]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("ab", [[97, 98]]),
        ([97, 98], [[97, 98]]),
        (["ab", "c"], [[97, 98], [99]]),
        ([[97, 98], [99]], [[97, 98], [99]]),
    ],
)
def test_every_kind_of_prompt(client: OpenAI, service: ScriptedService, prompt: Any, read: list[list[int]]) -> None:
    answer = client.completions.create(model="default", prompt=prompt, n=2)
    assert sorted(ids for ids, _ in service.requests) == sorted(read * 2)
    assert [choice.index for choice in answer.choices] == list(range(2 * len(read)))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, read))


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_tell_where_tokens_begin(stream: bool) -> None:
    service = ScriptedService(tokens=("ab", b"\xc3", b"\xa9", "!"))
    with live_server(service) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer: Any = client.completions.create(model="default", prompt="x", logprobs=1, stream=stream)
        parts = [part.choices[0] for part in (answer if stream else [answer])]
    assert "".join(part.text for part in parts) == "abé!"
    assert [offset for part in parts for offset in part.logprobs.text_offset] == [0, 2, 2, 3]
    assert [token for part in parts for token in part.logprobs.tokens] == ["ab", "\ufffd", "\ufffd", "!"]
    assert parts[0].logprobs.top_logprobs[0] == {"ab": -0.5}


def test_max_tokens_is_16_unless_given(client: OpenAI, service: ScriptedService) -> None:
    client.completions.create(model="default", prompt="x")
    assert service.requests[0][1].max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        ("", "prompt"),
        (5, "prompt"),
        ([{}], "prompt"),
        (["a", 1], "prompt[1]"),
        ([[1], [2.5]], "prompt[1][0]"),
        ([-1], "prompt[0]"),
        ([True], "prompt"),
        ("x" * 1000, "prompt"),
        (["x"] * 65, "prompt"),
    ],
)
def test_bad_prompts(client: OpenAI, prompt: Any, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.completions.create(model="default", prompt=prompt)
    assert caught.value.param == param


@pytest.mark.parametrize("options", [{"echo": True}, {"best_of": 2}, {"suffix": "}"}])
def test_unsupported_fields(client: OpenAI, options: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.completions.create(model="default", prompt="x", **options)
    assert (caught.value.code, caught.value.param) == ("unsupported_field", *options)
