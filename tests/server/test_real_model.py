"""The server with a real engine: the official client on a real socket, many at once, one that leaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from helpers.live_server import live_server
from minimax import MiniMaxM3
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.engine.service import Service


@pytest.fixture(scope="module")
def service(tiny_model: Path) -> Service:
    return Service(LLM(tiny_model, EngineConfig(dtype="float32")))


@pytest.fixture(scope="module")
def base_url(service: Service) -> Generator[str, None, None]:
    with live_server(service) as url:
        yield f"{url}/v1"


def ask(text: str, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "default", "messages": messages, "temperature": 0, "max_tokens": 12, **options}


def test_whole_and_streamed_answers_are_what_the_engine_says(service: Service, base_url: str, tiny_model: Path) -> None:
    llm = LLM(tiny_model, EngineConfig(dtype="float32"))
    expected = llm.chat([{"role": "user", "content": "hi"}], SamplingParams(max_tokens=12))
    with MiniMaxM3(base_url=base_url) as client:
        whole = client.chat.completions.create(**ask("hi"))
        streamed = "".join(
            chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**ask("hi"), stream=True)
        )
        assert whole.choices[0].message.content == streamed == expected.text
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == expected.stats.num_prompt
        assert whole.usage.completion_tokens == len(expected.token_ids)
        assert [model.id for model in client.models.list()] == ["tiny"]


def rounded(value: Any) -> Any:
    """JSON with its numbers to five digits: in fp32 two answers side by side may differ in the last ones."""
    return json.loads(json.dumps(value), parse_float=lambda digits: round(float(digits), 5))


def test_evidence_names_messages_and_lines(base_url: str) -> None:
    text = "".join(f"number {i} is {i * i}\n" for i in range(30))
    wanted = {"openm3": {"evidence": True}}
    with OpenAI(base_url=base_url, api_key="none") as client:
        whole = client.chat.completions.create(**ask(text, n=2, seed=1), extra_body=wanted).model_dump()
        chunks = [
            chunk.model_dump() for chunk in client.chat.completions.create(**ask(text), stream=True, extra_body=wanted)
        ]
        assert "openm3" not in client.chat.completions.create(**ask(text)).model_dump()
        with pytest.raises(BadRequestError, match="openm3.evidenc: unknown field"):
            client.chat.completions.create(**ask(text), extra_body={"openm3": {"evidenc": True}})
        with pytest.raises(BadRequestError, match="openm3: unknown field"):
            client.completions.create(model="default", prompt="hi", extra_body=wanted)
    assert [each["index"] for each in whole["openm3"]["evidence"]] == [0, 1]
    assert ["openm3" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert rounded(chunks[-1]["openm3"]["evidence"]) == rounded([whole["openm3"]["evidence"][0]])
    for sentence in whole["openm3"]["evidence"][0]["sentences"]:
        for reference in sentence["references"]:
            assert 0 < reference["weight"] <= 1 and reference["start"] < reference["stop"]
            for source in reference["sources"]:
                lines = text.splitlines()[source["first_line"] - 1 : source["last_line"]]
                assert source["message"] == 0 and any(
                    line in reference["text"] or reference["text"] in line for line in lines
                )


def test_sixteen_at_once_and_one_that_leaves(service: Service, base_url: str) -> None:
    async def run() -> None:
        async with AsyncOpenAI(base_url=base_url, api_key="none") as client:

            async def one(i: int) -> str:
                completion = await client.chat.completions.create(**ask(f"number {i}", seed=i, temperature=1))
                return completion.choices[0].message.content or ""

            async def leave() -> None:
                stream = await client.chat.completions.create(**ask("a long one", max_tokens=400), stream=True)
                async for _ in stream:
                    await stream.close()
                    return

            alone = [await one(i) for i in range(16)]
            together = await asyncio.gather(*(one(i) for i in range(16)), leave())
            assert together[:16] == alone

    asyncio.run(run())
    deadline = time.monotonic() + 5
    while (status := service.status()).running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (status.running, status.waiting, status.free_pages) == (0, 0, status.num_pages)


def test_a_prompt_longer_than_the_window_is_400(base_url: str) -> None:
    with OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        with pytest.raises(BadRequestError, match="the window is 512 tokens") as caught:
            client.chat.completions.create(**ask("x" * 600))
        assert caught.value.param == "messages"


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("strict", [True, False, None])
def test_answers_by_a_schema(base_url: str, strict: bool | None) -> None:
    schema = {"name": "person", "description": "who", "schema": PERSON, "strict": strict}
    asked = ask("who?", max_tokens=200, response_format={"type": "json_schema", "json_schema": schema})
    with MiniMaxM3(base_url=base_url) as client:
        [choice] = client.chat.completions.create(**asked).choices
        assert choice.finish_reason == "stop"
        person = json.loads(choice.message.content or "")
        assert list(person) == ["name", "age"]
        chunks = client.chat.completions.create(**asked, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
        [cut] = client.chat.completions.create(**{**asked, "max_tokens": 5}).choices
        assert cut.finish_reason == "length"


def test_other_formats_and_those_that_cannot_be(base_url: str) -> None:
    with MiniMaxM3(base_url=base_url) as client:

        def completed(response_format: dict[str, Any]) -> str:
            extra = {"response_format": response_format}
            return client.completions.create(model="tiny", prompt="a", max_tokens=99, extra_body=extra).choices[0].text

        assert completed({"type": "regex", "regex": "yes|no"}) in ("yes", "no")
        assert completed({"type": "grammar", "grammar": 'start: "a" "b"'}) == "ab"
        for wrong in ({"type": "regex", "regex": "("}, {"type": "grammar", "grammar": "start: foo"}):
            with pytest.raises(BadRequestError, match="response_format: (regex|grammar): ") as refused:
                completed(wrong)
            assert refused.value.param == "response_format"
        schema = {"name": "a", "schema": {"type": "strin"}}
        with pytest.raises(BadRequestError, match="response_format: json_schema: Invalid type: strin"):
            client.chat.completions.create(**ask("a", response_format={"type": "json_schema", "json_schema": schema}))
