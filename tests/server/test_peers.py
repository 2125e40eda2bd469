"""Upstreams that others have written, on real sockets; what they do differently the client doesn't see."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from helpers.live_server import live_server
from helpers.peers import PEERS, peer

HI: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}


@pytest.fixture(scope="module", params=PEERS)
def gateway(
    request: pytest.FixtureRequest, tiny_model: Path, default_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[str, None, None]:
    tiny = shutil.copytree(tiny_model, tmp_path_factory.mktemp("peers") / "tiny")
    with (
        peer(request.param, tiny=tiny, gguf=default_model_path) as (upstream, model),
        live_server(None, upstreams=(upstream,), upstream_models=(f"small={model}",)) as url,
    ):
        yield url


def tokens(gateway: str) -> tuple[float, float]:
    """Of prompts and of answers, as counted so far."""
    lines = dict(line.rsplit(" ", 1) for line in httpx.get(f"{gateway}/metrics").text.splitlines() if line[0] != "#")
    names = (f'openm3:{kind}_tokens_total{{model_name="small"}}' for kind in ("prompt", "generation"))
    prompt, answer = (float(lines.get(name, 0)) for name in names)
    return prompt, answer


def test_a_peer_answers_through_the_gateway(gateway: str) -> None:
    with OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["small"]
        before = tokens(gateway)
        whole = client.chat.completions.create(**HI, temperature=0)
        assert whole.usage and whole.model == "small" and whole.choices[0].finish_reason in ("stop", "length")
        counted = tokens(gateway)
        spent = whole.usage.prompt_tokens, whole.usage.completion_tokens
        assert (counted[0] - before[0], counted[1] - before[1]) == spent
        chunks = list(client.chat.completions.create(**HI, temperature=0, stream=True))
        assert {chunk.model for chunk in chunks} == {"small"}
        said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert said == whole.choices[0].message.content
        assert tokens(gateway)[1] - counted[1] >= whole.usage.completion_tokens  # none is free
        text = client.completions.create(model="small", prompt="1 2 3", max_tokens=3)
        assert text.usage and text.usage.completion_tokens <= 3


def test_whatever_a_peer_says_that_is_wrong_errors_have_our_shape(gateway: str) -> None:
    for body in ({**HI, "messages": "hello"}, {**HI, "temperature": "hot"}):
        refused = httpx.post(f"{gateway}/v1/chat/completions", json=body, timeout=30)
        assert refused.status_code >= 400 and refused.json()["error"]["message"]
    unknown = httpx.post(f"{gateway}/v1/embeddings", json={"model": "small", "input": "hello"}, timeout=30)
    assert unknown.status_code >= 400 and unknown.json()["error"]["message"]
