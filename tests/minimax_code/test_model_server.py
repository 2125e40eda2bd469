"""A model on a socket, asked by the SDK."""

from __future__ import annotations

import openai
import pytest

from minimax import MiniMaxM3
from minimax_code.errors import ModelError
from minimax_code.model import Abilities, Request, ToolCall
from minimax_code.testing import ModelServer, ScriptedModel

TOOL = {"type": "function", "function": {"name": "read", "description": "Reads.", "parameters": {"type": "object"}}}


def ask(client: MiniMaxM3, text: str = "Hi", **fields: object) -> openai.types.chat.ChatCompletion:
    body = {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}
    return client.chat.completions.create(**body)  # type: ignore[no-any-return, call-overload]


def test_text_and_calls_come_back_as_the_script_says() -> None:
    def echo(request: Request) -> str:
        return f"{request.messages[-1].content}, {request.tools[0].name}, {request.max_tokens}"

    model = ScriptedModel(["Hello!", ToolCall(id="1", name="read", arguments='{"path": "a"}'), echo])
    with ModelServer(model) as server, MiniMaxM3(base_url=server.base_url) as client:
        assert [served.id for served in client.models.list()] == ["scripted"]
        first = ask(client, "two words")
        assert first.choices[0].message.content == "Hello!"
        assert first.usage and first.usage.prompt_tokens == 2
        second = ask(client, tools=[TOOL])
        assert second.choices[0].finish_reason == "tool_calls"
        assert second.choices[0].message.tool_calls
        assert second.choices[0].message.tool_calls[0].function.arguments == '{"path": "a"}'
        assert ask(client, "x", tools=[TOOL], max_tokens=9).choices[0].message.content == "x, read, 9"


def test_what_the_model_can_t_do_is_refused_and_probes_use_up_no_script() -> None:
    model = ScriptedModel(["the only line"], abilities=Abilities(context_tokens=512))
    with ModelServer(model) as server, MiniMaxM3(base_url=server.base_url, max_retries=0) as client:
        ask(client, max_tokens=1)
        with pytest.raises(openai.BadRequestError, match="doesn't call any"):
            ask(client, max_tokens=1, tools=[TOOL])
        assert ask(client).choices[0].message.content == "the only line"


def test_errors_of_the_script_are_errors_of_the_server() -> None:
    with (
        ModelServer(ScriptedModel([ModelError("the model is gone")])) as server,
        MiniMaxM3(base_url=server.base_url, max_retries=0) as client,
    ):
        with pytest.raises(openai.APIStatusError, match="the model is gone"):
            ask(client)
        with pytest.raises(openai.APIStatusError, match="no line for request 2"):
            ask(client)
        with pytest.raises(openai.BadRequestError, match="not a request"):
            ask(client, stop=5)
