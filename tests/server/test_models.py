from __future__ import annotations

import httpx
import pytest
from openai import NotFoundError, OpenAI

from helpers.live_server import live_server
from helpers.scripted import ScriptedLLM, ScriptedService


def test_the_served_model_is_listed(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("scripted", "model", "openm3")
    assert model.model_extra == {"max_model_len": 1000}


def test_a_model_is_found_by_name_and_alias() -> None:
    service = ScriptedService(llm=ScriptedLLM(name="maker/model"))
    with live_server(service) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert client.models.retrieve("maker/model").id == "maker/model"
        for alias in ("default", "minimax-m3", "MiniMax-M3"):
            assert client.models.retrieve(alias).id == "maker/model"
        with pytest.raises(NotFoundError, match="does not exist"):
            client.models.retrieve("other")


def test_health(server: str) -> None:
    assert httpx.get(f"{server}/healthz").json() == {
        "status": "ok",
        "model": "scripted",
        "running": 0,
        "waiting": 0,
        "free_pages": 8,
        "num_pages": 8,
    }
