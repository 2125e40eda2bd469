"""`openm3 serve --ray` as users start it, with a tiny model on a Ray cluster of two nodes."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from openai import APIStatusError, BadRequestError, OpenAI

from helpers.live_server import eventually
from helpers.ray_cluster import RayCluster
from openm3.cli.serve import serve
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.errors import InputError, WindowError


def command(*options: str) -> list[str]:
    return [sys.executable, "-c", "from openm3.cli.main import main; main()", "serve", "--port", "0", *options]


@pytest.fixture(scope="module")
def url(cluster: RayCluster, tiny_model: Path) -> Generator[str, None, None]:
    """Two replicas, one on each node, as there is one core on each."""
    options = command("--ray", cluster.address, "--model", str(tiny_model), "--log-format", "text")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(options, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            yield next(found[1] for line in lines if (found := re.search(r"at (http://\S+)/v1", line)))
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=30)
            assert server.returncode == -signal.SIGTERM  # as without Ray, which would make it 15
        finally:
            with suppress(ProcessLookupError):
                server.kill()


@pytest.fixture
def client(url: str) -> Generator[OpenAI, None, None]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(text: str, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "default", "messages": messages, "temperature": 0, "max_tokens": 12, **options}


def health(url: str) -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(f"{url}/healthz").json()
    return told


def served(url: str) -> list[float]:
    """Requests that each replica was given."""
    text = httpx.get(f"{url}/metrics").text
    return [float(number) for number in re.findall(r"openm3:replica_requests_total\{.*?\} (\S+)", text)]


def test_answers_are_those_of_an_engine_in_this_process(url: str, client: OpenAI, tiny_model: Path) -> None:
    llm = LLM(tiny_model)
    text = "".join(f"number {i} is {i * i}\n" for i in range(20))
    expected = llm.chat([{"role": "user", "content": text}], SamplingParams(max_tokens=12, evidence=True))
    whole = client.chat.completions.create(**asked(text), extra_body={"openm3": {"evidence": True}})
    chunks = client.chat.completions.create(**asked(text), stream=True)
    assert whole.choices[0].message.content == expected.text
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == expected.stats.num_prompt
    assert expected.evidence is not None
    told = [sentence["text"] for sentence in whole.model_dump()["openm3"]["evidence"][0]["sentences"]]
    assert told == [sentence.text for sentence in expected.evidence.sentences]
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    content = (
        client.chat.completions.create(**asked("hi", max_tokens=60, response_format=form)).choices[0].message.content
    )
    assert json.loads(content or "")["a"] in (1, 2)


def test_errors_come_through_by_their_fields(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="512 tokens"):
        client.chat.completions.create(**asked("x" * 600))


def test_questions_about_one_context_go_to_one_replica(url: str, client: OpenAI) -> None:
    for name in "ab":
        before = served(url)
        cached = []
        for question in range(3):
            answer = client.chat.completions.create(**asked(name * 300 + str(question)))
            assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
            cached.append(answer.usage.prompt_tokens_details.cached_tokens)
        given = [now - then for now, then in zip(served(url), before, strict=True)]
        assert sorted(given) == [0, 3]
        assert cached[0] < 128 and min(cached[1:]) >= 256  # it had the keys and values indeed


def test_a_client_that_leaves_frees_the_replica(url: str, client: OpenAI) -> None:
    endless = {"max_tokens": 400, "logit_bias": {"257": -100}}  # the end token
    stream = client.chat.completions.create(**asked("hi", **endless), stream=True)
    next(iter(stream))
    stream.close()
    assert eventually(lambda: health(url)["running"] == 0, within_s=5)


def test_a_killed_replica_comes_back_and_requests_go_to_the_other_one(
    url: str, client: OpenAI, cluster: RayCluster
) -> None:
    assert health(url) | {"replicas": 2, "replicas_up": 2} == health(url)
    first, second = cluster.actors("EngineActor")
    cluster.kill(first)
    answers = [client.chat.completions.create(**asked(f"{i}")).choices[0].finish_reason for i in range(8)]
    assert set(answers) <= {"stop", "length"}  # nobody noticed
    assert eventually(lambda: health(url)["replicas_up"] == 2, within_s=60)
    assert second in (pids := cluster.actors("EngineActor")) and first not in pids


def test_a_lost_node_takes_its_replica_along(url: str, client: OpenAI, cluster: RayCluster) -> None:
    cluster.lose_a_node()
    try:
        for i in range(4):
            with suppress(APIStatusError):  # one that had begun there
                client.chat.completions.create(**asked(f"{i}"))
        assert eventually(lambda: health(url)["replicas_up"] == 1, within_s=30)
        assert client.chat.completions.create(**asked("still here")).choices[0].finish_reason in ("stop", "length")
        assert httpx.get(f"{url}/readyz").status_code == 200
    finally:
        cluster.add_a_node()


def test_what_cannot_be_had_is_told_by_its_option(tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    for options, message in (
        (["--ray", "ray://127.0.0.1:1"], "--ray: 'ray://127.0.0.1:1' is no HOST:PORT"),
        (["--ray", "127.0.0.1:1"], "--ray: there is no Ray cluster at 127.0.0.1:1"),
        (["--replicas", "2", "--load", "x"], "--load: is for one engine in this process"),
        (["--replicas", "2", "--upstream", "http://127.0.0.1:9"], "--replicas: is for a model that is loaded here"),
    ):
        result = CliRunner().invoke(serve, ["--port", str(port), "--model", str(tiny_model), *options])
        assert isinstance(result.exception, InputError) and str(result.exception).startswith(message)


def test_errors_survive_the_way_between_processes() -> None:
    error = copy.copy(WindowError("prompt", "too long"))  # as pickle makes it again
    assert (type(error), error.field, str(error)) == (WindowError, "prompt", "prompt: too long")
