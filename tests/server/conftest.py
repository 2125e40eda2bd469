"""A scripted service on a real socket, and the official client for it."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from openai import OpenAI

from helpers.live_server import live_server
from helpers.scripted import ScriptedService
from helpers.seeing_m3 import write_seeing_m3
from openm3.config import EngineConfig
from openm3.engine.llm import LLM


@pytest.fixture(scope="session")
def m3_llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    """A model that sees, thinks and calls tools, with random weights; tests leave its engine idle."""
    folder = write_seeing_m3(tmp_path_factory.mktemp("models") / "m3")
    return LLM(folder, EngineConfig(dtype="float32", max_context=2048))


@pytest.fixture(scope="module")
def running() -> Generator[tuple[ScriptedService, str], None, None]:
    service = ScriptedService()
    with live_server(service) as base_url:
        yield service, base_url


@pytest.fixture
def service(running: tuple[ScriptedService, str]) -> ScriptedService:
    service, _ = running
    service.requests.clear()
    return service


@pytest.fixture
def server(running: tuple[ScriptedService, str]) -> str:
    return running[1]


@pytest.fixture
def client(server: str) -> Generator[OpenAI, None, None]:
    with OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client
