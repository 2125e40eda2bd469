"""A cluster of scripted agents whose runs are kept in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minimax_code.clusters import AgentCluster, Errand, Outcome

SPECS = [
    {"id": "py", "name": "Ada", "role": "Engineer", "capabilities": ["Python", "PostgreSQL"]},
    {"id": "web", "name": "Tim", "role": "Designer", "capabilities": ["react", "css"]},
    {"id": "qa", "name": "Grace", "role": "Tester", "capabilities": ["pytest", "python"], "max_concurrent": 1},
]

NewCluster = Callable[..., AgentCluster]


async def succeed(errand: Errand) -> Outcome:
    """Work that is done at once."""
    return Outcome(success=True, result={"summary": f"{errand.subtask.id} by {errand.agent.id}"})


@pytest.fixture
def new_cluster(tmp_path: Path) -> NewCluster:
    """Makes clusters of the three agents, or of others."""

    def make(config: dict[str, Any] | None = None, *, specs: Any = SPECS, **options: Any) -> AgentCluster:
        cluster = AgentCluster(config, **{"store": str(tmp_path / "runs.db"), "work": succeed, **options})
        cluster.initialize_agents(specs)
        return cluster

    return make


def subtask(id: str, *dependencies: str, **fields: Any) -> dict[str, Any]:
    """A sub-task as a model writes it."""
    return {"id": id, "description": f"Do {id}", "dependencies": list(dependencies), **fields}


def answer(*subtasks: dict[str, Any]) -> str:
    """A model's answer."""
    return json.dumps(list(subtasks))
