"""`/v1/embeddings` with the official client on a real socket."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

from helpers.live_server import live_server
from helpers.scripted import ScriptedService
from helpers.sentence import write_sentence_model
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.service import Service
from openm3.model.sentence import SentenceModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "letters"
    folder.mkdir()
    write_sentence_model(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Generator[str, None, None]:
    with live_server(ScriptedService(), embeddings=str(folder)) as url:
        yield url


def expected(folder: Path, texts: list[str]) -> list[list[float]]:
    model = SentenceModel(folder)
    vectors = model.embed([model.encode(text) for text in texts])
    values: list[list[float]] = torch.nn.functional.normalize(vectors, dim=-1).tolist()
    return values


def test_floats_and_base64_of_one_and_many(client: OpenAI, folder: Path) -> None:
    texts = ["abc", "xyz", ""]
    want = expected(folder, texts)
    many = client.embeddings.create(model="letters", input=texts)  # as base64, unless told otherwise
    assert [one.index for one in many.data] == [0, 1, 2]
    assert (many.model, many.object, many.usage.prompt_tokens, many.usage.total_tokens) == ("letters", "list", 12, 12)
    floats = client.embeddings.create(model="default", input=texts, encoding_format="float")
    for one, two, vector in zip(many.data, floats.data, want, strict=True):
        assert one.embedding == two.embedding == pytest.approx(vector, abs=1e-5)
    single = client.embeddings.create(model="letters", input="xyz")
    assert single.data[0].embedding == pytest.approx(want[1], abs=1e-5)
    tokens = SentenceModel(folder).encode("abc")
    as_tokens = client.embeddings.create(model="letters", input=[tokens, tokens])
    assert as_tokens.data[1].embedding == pytest.approx(want[0], abs=1e-5)


async def _asynchronously(url: str) -> Any:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        return await client.embeddings.create(model="letters", input="abc")


def test_the_asynchronous_client(server: str, folder: Path) -> None:
    import asyncio

    answer = asyncio.run(_asynchronously(server))
    assert answer.data[0].embedding == pytest.approx(expected(folder, ["abc"])[0], abs=1e-5)


def test_fewer_dimensions_are_the_first_ones_at_length_1(client: OpenAI, folder: Path) -> None:
    got = client.embeddings.create(model="letters", input="abc", dimensions=5).data[0].embedding
    first = expected(folder, ["abc"])[0][:5]
    length = math.sqrt(sum(x * x for x in first))
    assert got == pytest.approx([x / length for x in first], abs=1e-5)
    with pytest.raises(BadRequestError, match=r"dimensions: must be at most the 32"):
        client.embeddings.create(model="letters", input="abc", dimensions=33)


def test_a_text_that_is_too_long_is_refused_or_cut(client: OpenAI, folder: Path) -> None:
    with pytest.raises(BadRequestError, match=r"input\[1\]: has 32 tokens and the model reads 1 to 24") as caught:
        client.embeddings.create(model="letters", input=["abc", "a" * 30])
    assert caught.value.param == "input[1]"
    cut = client.embeddings.create(model="letters", input="a" * 30, extra_body={"openm3": {"truncate": True}})
    assert cut.usage.prompt_tokens == 24
    assert cut.data[0].embedding == pytest.approx(expected(folder, ["a" * 22])[0], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [99]}, "input[0]"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a" * 2_400_001}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimension": 3}, "dimension"),
        ({}, "input"),
    ],
)
def test_what_is_wrong_is_named(server: str, body: dict[str, Any], param: str) -> None:
    response = httpx.post(f"{server}/v1/embeddings", json={"model": "letters", **body})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_the_served_model_embeds_too(tiny_model: Path) -> None:
    llm = LLM(tiny_model, EngineConfig(dtype="float32"))
    texts = ["a cat on a mat", "a kitten on a rug", "def main(): pass"]
    with live_server(Service(llm)) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        made = client.embeddings.create(model="tiny", input=[*texts, *texts], encoding_format="float")
        fewer = client.embeddings.create(model="tiny", input=texts[0], dimensions=4, encoding_format="float")
        with pytest.raises(BadRequestError, match=r"input\[1\]: has 600 tokens and the model reads 1 to 511"):
            client.embeddings.create(model="tiny", input=["a", "b" * 600])
        cut = client.embeddings.create(model="tiny", input="b" * 600, extra_body={"openm3": {"truncate": True}})
        with pytest.raises(BadRequestError, match=r"input\[0\]: holds a token id outside"):
            client.embeddings.create(model="tiny", input=[[999]])
        with pytest.raises(BadRequestError, match="dimensions: must be at most the 96"):
            client.embeddings.create(model="tiny", input="a", dimensions=97)
    vectors = [one.embedding for one in made.data]
    assert {len(vector) for vector in vectors} == {llm.model_config.hidden_size}
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-5) for vector in vectors)
    assert vectors[0] == pytest.approx(vectors[3], abs=1e-5) and vectors[0] != pytest.approx(vectors[1], abs=1e-2)
    assert fewer.data[0].embedding == pytest.approx([x / math.hypot(*vectors[0][:4]) for x in vectors[0][:4]], abs=1e-4)
    assert made.usage.prompt_tokens == 2 * sum(map(len, texts)) and cut.usage.prompt_tokens == 511


def test_another_model_does_not_exist(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="this server has 'letters' and 'scripted'"):
        client.embeddings.create(model="text-embedding-3-small", input="abc")


def test_as_many_inputs_as_there_may_be(server: str) -> None:
    texts = ["a" * 20] * 2048
    response = httpx.post(f"{server}/v1/embeddings", json={"model": "letters", "input": texts}, timeout=60)
    assert response.status_code == 200 and len(response.json()["data"]) == 2048


def test_a_model_that_cant_be_loaded_is_the_servers_fault(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    with live_server(ScriptedService(), embeddings=str(tmp_path)) as url:
        response = httpx.post(f"{url}/v1/embeddings", json={"model": "default", "input": "a"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
        assert "modules.json" in response.json()["error"]["message"]
        assert httpx.get(f"{url}/healthz").status_code == 200
