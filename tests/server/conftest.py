"""A scripted service on a real socket, and the official client for it."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from openai import OpenAI

from helpers.live_server import live_server
from helpers.scripted import ScriptedService


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
