"""`executor="ray"` on a Ray cluster of two nodes."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.live_server import eventually
from helpers.ray_cluster import RayCluster
from minimax_code.clusters import Errand, Outcome, on_ray
from minimax_code.errors import InputError, LeaseError
from minimax_code.events import SubtaskEnded
from minimax_code.store import Store

from .conftest import NewCluster, subtask

LOST = re.compile(r"its process on the Ray cluster was lost \(\w+\), and what had come of it is not known")


def test_errands_on_two_nodes_one_of_which_is_lost(
    cluster: RayCluster, new_cluster: NewCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one does what it had, and is told so; an errand that kills whatever does it is given up."""
    monkeypatch.setattr(on_ray, "MOST_LOST", 2)

    async def work(errand: Errand) -> Outcome:
        import ray

        name, node = errand.subtask.id, ray.get_runtime_context().get_node_id()
        (tmp_path / f"{name}-{len(errand.causes)}").write_text(node)
        if name == "deadly":
            os._exit(1)
        if name == "wrong":
            raise ValueError("no")
        while not (tmp_path / "go").exists():
            await asyncio.sleep(0.05)
        told = {"node": node, "causes": list(errand.causes), "inputs": dict(errand.inputs)}
        return Outcome(success=True, result=told)

    def lose() -> None:
        has_begun = {name: tmp_path / name for name in ("x-0", "y-0", "deadly-1", "wrong-0", "x-1", "y-1")}
        if eventually(lambda: all(has_begun[one].exists() for one in [*has_begun][:4]), within_s=60):
            cluster.lose_a_node()
            eventually(lambda: has_begun["x-1"].exists() or has_begun["y-1"].exists(), within_s=60)
        (tmp_path / "go").touch()

    agents = new_cluster({"auto_retry": False}, work=work, executor="ray", ray=cluster.address)
    assert agents.executor == "ray"
    losing = threading.Thread(target=lose)
    losing.start()
    try:
        results = agents.execute_parallel([*map(subtask, ["x", "y", "wrong", "deadly"]), subtask("z", "x")])
    finally:
        losing.join()
        cluster.add_a_node()
    x, y, wrong, deadly, z = results
    assert (x["success"], y["success"], z["success"]) == (True, True, True), results
    begun = {(tmp_path / f"{name}-0").read_text() for name in "xy"}
    [left] = {one["result"]["node"] for one in (x, y, z)}
    assert len(begun) == 2 and left in begun
    [cause] = x["result"]["causes"] + y["result"]["causes"]
    assert LOST.fullmatch(cause)
    assert z["result"]["inputs"] == {"x": x["result"]}
    assert (wrong["success"], wrong["causes"]) == (False, ["ValueError: no"])
    assert (deadly["success"], deadly["causes"]) == (False, ["2 processes of the Ray cluster were lost over it"])


def test_a_run_that_another_process_has_taken_ends_and_changes_nothing(
    cluster: RayCluster, new_cluster: NewCluster, tmp_path: Path
) -> None:
    """As a process that was frozen past its lease finds it. What its errands do is ended in order."""
    url = str(tmp_path / "runs.db")

    async def work(errand: Errand) -> Outcome:
        if errand.subtask.id == "quick":
            while not (tmp_path / "taken").exists():
                await asyncio.sleep(0.05)
            return Outcome(success=True)
        try:
            (tmp_path / "slow-begun").touch()
            await asyncio.sleep(600)
        finally:
            (tmp_path / "slow-ended").touch()
        raise AssertionError

    agents = new_cluster(work=work, executor="ray", ray=cluster.address)

    def take() -> None:
        assert eventually(lambda: (tmp_path / "slow-begun").exists(), within_s=30)
        later = Store(url, now=lambda: time.time() + 1000)
        later.lease(agents.job or "", "other", 10)
        later.close()
        (tmp_path / "taken").touch()

    taking = threading.Thread(target=take)
    taking.start()
    with pytest.raises(LeaseError, match="was taken by"):
        agents.execute_parallel([subtask("quick"), subtask("slow")])
    taking.join()
    assert eventually(lambda: (tmp_path / "slow-ended").exists(), within_s=10)
    store = Store(url)
    assert not any(isinstance(one.event, SubtaskEnded) for one in store.events(agents.job or ""))
    store.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ray": "127.0.0.1:9"}, "ray: there is no Ray cluster at 127.0.0.1:9"),
        ({"ray": "ray://127.0.0.1:9"}, "ray: 'ray://127.0.0.1:9' is no HOST:PORT"),
        ({"ray": "auto", "executor": "local"}, "ray: is the address for executor='ray', not for 'local'"),
        ({"executor": "dask"}, "executor: 'dask' is not known; there are local, workers, ray"),
    ],
)
def test_what_cannot_be_had_is_refused(options: dict[str, Any], message: str, new_cluster: NewCluster) -> None:
    with pytest.raises(InputError, match=message):
        new_cluster(**{"executor": "ray", **options}).execute_parallel([subtask("a")])


def test_without_ray_it_is_said_how_to_have_it(new_cluster: NewCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^executor: needs Ray: pip install 'openm3\[ray\]'$"):
        new_cluster(executor="ray").execute_parallel([subtask("a")])


def test_work_that_cannot_travel_is_refused(cluster: RayCluster, new_cluster: NewCluster) -> None:
    lock = threading.Lock()

    async def work(errand: Errand) -> Outcome:
        with lock:
            return Outcome(success=True)

    with pytest.raises(InputError, match="work: can't be sent to other machines"):
        new_cluster(executor="ray", ray=cluster.address, work=work).execute_parallel([subtask("a")])
