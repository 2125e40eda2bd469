"""`/v1/responses` with the official client on a real socket: items, events, what is kept, what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.responses import response_create_params
from pydantic import BaseModel

from helpers.live_server import live_server
from helpers.sayings import say
from helpers.scripted import ScriptedService
from helpers.seeing_m3 import data_url, png
from openm3.engine.llm import LLM
from openm3.engine.service import Service
from openm3.server.errors import ApiError
from openm3.server.response_store import ResponseStore
from openm3.server.routes.responses import ResponsesWording
from openm3.server.schema.response import CompletionDetails, PromptDetails, Usage
from openm3.server.schema.responses import MessageItem, ResponsesRequest
from openm3.server.wording import Piece
from openm3.text.m3 import NAMESPACE as NS

NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
ADD: Any = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": NUMBER, "b": NUMBER}, "required": ["a", "b"]},
    "strict": False,
}
THOUGHT = "<mm:think>I must add.</mm:think>"
CALL = f'{NS}<tool_call>\n{NS}<invoke name="add">{NS}<a>2{NS}</a>{NS}<b>3{NS}</b>{NS}</invoke>\n{NS}</tool_call>'


@pytest.fixture(scope="module")
def thinking(m3_llm: LLM) -> Generator[OpenAI, None, None]:
    with live_server(Service(m3_llm)) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_whole_response(client: OpenAI, service: ScriptedService) -> None:
    response = client.responses.create(
        model="default", input="hi", instructions="Be kind.", max_output_tokens=50, temperature=0.5, top_p=0.9,
        metadata={"a": "b"}, user="somebody", include=["message.output_text.logprobs"], top_logprobs=1,
    )  # fmt: skip
    assert (response.object, response.status, response.output_text) == ("response", "completed", "Hello, world!")
    assert response.id.startswith("resp_") and response.metadata == {"a": "b"} and response.user == "somebody"
    [item] = response.output
    assert item.type == "message" and item.status == "completed" and item.content[0].type == "output_text"
    assert [one.token for one in item.content[0].logprobs or ()] == ["Hello", ",", " world", "!"]
    [(prompt, params)] = service.requests
    assert bytes(prompt).decode() == "<system>Be kind.\n<user>hi\n"
    assert (params.temperature, params.top_p, params.max_tokens, params.logprobs) == (0.5, 0.9, 50, 1)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (len(prompt), 4)
    assert response.usage.input_tokens_details.cached_tokens == len(prompt) // 2


@pytest.mark.parametrize(("most", "status"), [(2, "incomplete"), (50, "completed")])
def test_events_come_in_the_published_order(client: OpenAI, most: int, status: str) -> None:
    events: list[Any] = list(client.responses.create(model="default", input="hi", max_output_tokens=most, stream=True))
    kinds = [event.type for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * deltas, "response.output_text.done", "response.content_part.done",
        "response.output_item.done", f"response.{status}",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[2].item.content == [] and events[3].part.text == ""
    last = events[-1].response
    assert "".join(event.delta for event in events[4:-4]) == events[-4].text == last.output_text
    assert last.output[0].status == last.status == status
    assert last.incomplete_details is None or last.incomplete_details.reason == "max_output_tokens"
    assert {event.item_id for event in events[3:-2]} == {last.output[0].id}


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_text_calls_and_the_way_back(thinking: OpenAI, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(**options: Any) -> Any:
        options = {"model": "default", "tools": [ADD], **options}
        if not stream:
            return thinking.responses.create(**options)
        with thinking.responses.stream(**options) as events:
            return events.get_final_response()

    prompts: list[str] = []
    encode = LLM.encode_chat

    def listening(self: LLM, *args: Any, **options: Any) -> Any:
        prompt = encode(self, *args, **options)
        prompts.append(self.tokenizer.decode(prompt.ids, skip_special=False))
        return prompt

    monkeypatch.setattr(LLM, "encode_chat", listening)
    say(f"{THOUGHT}Let me see.{CALL}", monkeypatch)
    first = ask(input="2 + 3?")
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    thought, message, call = first.output
    assert (thought.content[0].text, message.content[0].text) == ("I must add.", "Let me see.")
    assert (call.name, json.loads(call.arguments)) == ("add", {"a": 2, "b": 3})
    assert first.usage.output_tokens_details.reasoning_tokens > 5

    say("It is 5.", monkeypatch)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    by_id = ask(previous_response_id=first.id, input=[result])
    assert by_id.output_text == "It is 5."
    assert f"]~b]ai\n{THOUGHT}Let me see.\n{CALL}[e~[\n]~b]tool\n<response>5</response>[e~[\n" in prompts[-1]
    by_hand = ask(input=[{"role": "user", "content": "2 + 3?"}, *first.output, result])
    assert prompts[-1] == prompts[-2] and by_hand.output_text == "It is 5."
    ask(previous_response_id=by_id.id, input="And 4?")
    assert "It is 5.[e~[\n]~b]user\nAnd 4?" in prompts[-1]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "add"}])
def test_calls_that_are_required(thinking: OpenAI, choice: Any) -> None:
    response = thinking.responses.create(
        model="default", input="?", tools=[ADD], tool_choice=choice, parallel_tool_calls=False,
        reasoning={"effort": "none"},
    )  # fmt: skip
    [call] = response.output
    assert call.type == "function_call" and set(json.loads(call.arguments)) == {"a", "b"}


def test_an_answer_that_is_parsed(thinking: OpenAI) -> None:
    class Verdict(BaseModel):
        ok: bool

    response = thinking.responses.parse(
        model="default", input="?", text_format=Verdict, reasoning={"effort": "none"}, max_output_tokens=99
    )
    assert isinstance(response.output_parsed, Verdict)


def test_an_image_is_seen(thinking: OpenAI) -> None:
    def tokens(*parts: Any) -> int:
        content: Any = [{"type": "input_text", "text": "What?"}, *parts]
        asked: Any = [{"role": "user", "content": content}]
        usage = thinking.responses.create(model="default", input=asked, max_output_tokens=1).usage
        return usage.input_tokens if usage else 0

    image = {"type": "input_image", "image_url": data_url(png(64, 64)), "detail": "auto"}
    assert tokens(image) > tokens() + 2
    with pytest.raises(BadRequestError) as caught:
        tokens({**image, "image_url": "data:image/png;base64,eA=="})
    assert caught.value.param == "input[0].content[1].image_url"


def test_sixteen_at_once() -> None:
    async def ask(client: AsyncOpenAI, number: int) -> str:
        if number % 2:
            stream = await client.responses.create(model="default", input=str(number), stream=True)
            return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        return (await client.responses.create(model="default", input=str(number))).output_text

    async def ask_all(url: str) -> list[str]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(16)))

    with live_server(ScriptedService(delay_s=0.02)) as url:
        assert asyncio.run(ask_all(url)) == ["Hello, world!"] * 16


def test_what_is_kept_can_be_had_again_and_forgotten(client: OpenAI) -> None:
    kept = client.responses.create(model="default", input="hi")
    assert client.responses.retrieve(kept.id).output_text == "Hello, world!"
    client.responses.delete(kept.id)
    for gone in (kept.id, client.responses.create(model="default", input="hi", store=False).id):
        with pytest.raises(NotFoundError, match="is kept here"):
            client.responses.retrieve(gone)
        with pytest.raises(NotFoundError) as caught:
            client.responses.create(model="default", input="hi", previous_response_id=gone)
        assert caught.value.param == "previous_response_id"


def test_the_newest_are_kept() -> None:
    with (
        live_server(ScriptedService(), max_stored_bytes=20_000) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none") as client,
    ):
        made = [client.responses.create(model="default", input="x" * 900).id for _ in range(20)]
        known = [httpx.get(f"{url}/v1/responses/{id_}").status_code == 200 for id_ in made]
    assert known == sorted(known) and 2 <= sum(known) < 20


def test_nobody_sees_what_another_key_was_given() -> None:
    kept: list[Any] = []
    wording = ResponsesWording(ResponsesRequest(model="m", input="hi"), "m", kept.append)
    usage = Usage(
        prompt_tokens=1, completion_tokens=1, total_tokens=2, prompt_tokens_details=PromptDetails(cached_tokens=0),
        completion_tokens_details=CompletionDetails(reasoning_tokens=0),
    )  # fmt: skip
    wording.whole([Piece(0, "Hello", finish_reason="stop")], usage)

    async def check() -> None:
        store = ResponseStore(10_000)
        store.put("mine", kept[0], [MessageItem(role="user", content="hi")])
        assert (await store.get("mine", kept[0].id)).response is kept[0]
        for other in ("yours", None):
            with pytest.raises(ApiError) as caught:
                await store.get(other, kept[0].id)
            assert caught.value.status_code == 404
            with pytest.raises(ApiError):
                await store.delete(other, kept[0].id)
        await store.delete("mine", kept[0].id)
        store.put("mine", kept[0], [MessageItem(role="user", content="x" * 10_000)])
        with pytest.raises(ApiError):
            await store.get("mine", kept[0].id)
        await store.aclose()

    asyncio.run(check())


def test_responses_survive_a_restart(tmp_path: Path) -> None:
    input_: Any = [{"role": "user", "content": [{"type": "input_text", "text": "first"}]}]
    service = ScriptedService()
    with live_server(service, data=str(tmp_path)) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        first = client.responses.create(model="default", input=input_, instructions="Be short.", temperature=0.5)
        second = client.responses.create(model="default", input="second", previous_response_id=first.id)
        deleted = client.responses.create(model="default", input="x")
        client.responses.delete(deleted.id)
    before = service.requests[1][0]
    service = ScriptedService()
    (tmp_path / "responses" / f"{deleted.id}.json").write_text("{")  # as after a write that was cut
    with live_server(service, data=str(tmp_path)) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert client.responses.retrieve(first.id) == first
        with pytest.raises(NotFoundError):
            client.responses.retrieve(deleted.id)
        client.responses.create(model="default", input="second", previous_response_id=first.id)
        client.responses.create(model="default", input="third", previous_response_id=second.id)
        client.responses.delete(first.id)
    assert service.requests[0][0] == before and service.requests[1][0][: len(before)] == before
    assert not (tmp_path / "responses" / f"{first.id}.json").exists()
    with live_server(ScriptedService(), data=str(tmp_path), max_stored_bytes=10) as url:  # less is kept now
        assert httpx.get(f"{url}/v1/responses/{second.id}").status_code == 404
    assert not list((tmp_path / "responses").glob("resp_*"))


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"inpt": "x"}, "inpt", "did you mean 'input'?"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": 5}, "input", "must be a string or a list"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "must be of type 'message', 'function_call'"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]", "must be of type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text", "required"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input[0].call_id",
         "no message before it has the tool call '1'"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content", "an image isn't for role 'assistant'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]},
         "input[0].content[0]", "is not for this model"),
        ({"background": True}, "background", "true is not supported"),
        ({"truncation": "auto"}, "truncation", "'auto' is not supported"),
        ({"conversation": "x"}, "conversation", "not supported by this server"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]", "is not supported"),
        ({"top_logprobs": 2}, "top_logprobs", "needs include"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "not for this model"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "not supported"),
        ({"tools": [ADD]}, "tools", "not for this model"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search' is not supported"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"text": {"format": {"type": "xml"}}}, "text.format", "must be of type 'text', 'json_object' or"),
        ({"stream_options": {}}, "stream_options", "needs stream"),
        ({"metadata": {"a": 1}}, "metadata.a", "valid string"),
        ({"input": "x" * 2000}, "input", "window is 1000"),
    ],
)  # fmt: skip
def test_what_is_refused(server: str, fields: dict[str, Any], param: str, message: str) -> None:
    response = httpx.post(f"{server}/v1/responses", json={"model": "default", "input": "hi"} | fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param and message in error["message"]


def test_a_stream_that_breaks_says_so() -> None:
    with live_server(ScriptedService(fails_after=2)) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        events: list[Any] = list(client.responses.create(model="default", input="hi", stream=True))
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2].code == "internal_error" and "secret" not in events[-2].message
    assert (events[-1].response.status, events[-1].response.error.code) == ("failed", "server_error")


def test_every_field_of_the_openai_api_is_known() -> None:
    known = response_create_params.ResponseCreateParamsBase.__annotations__
    assert set(known) <= set(ResponsesRequest.model_fields)
