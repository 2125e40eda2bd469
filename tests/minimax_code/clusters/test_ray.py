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


def test_what_becomes_of_errands(
    cluster: RayCluster, new_cluster: NewCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever does one that a process died over is told so; one that kills whatever does it is given up."""
    monkeypatch.setattr(on_ray, "MOST_LOST", 2)

    async def work(errand: Errand) -> Outcome:
        if errand.subtask.id == "deadly" or (errand.subtask.id == "unlucky" and not errand.causes):
            os._exit(1)
        if errand.subtask.id == "wrong":
            raise ValueError("no")
        return Outcome(success=True, result={"causes": list(errand.causes), "inputs": dict(errand.inputs)})

    agents = new_cluster({"auto_retry": False}, work=work, executor="ray", ray=cluster.address)
    assert agents.executor == "ray"
    unlucky, wrong, deadly, last = agents.execute_parallel(
        [*map(subtask, ["unlucky", "wrong", "deadly"]), subtask("last", "unlucky")]
    )
    assert unlucky["success"] and LOST.fullmatch(*unlucky["result"]["causes"])
    assert last["result"]["inputs"] == {"unlucky": unlucky["result"]}
    assert (wrong["success"], wrong["causes"]) == (False, ["ValueError: no"])
    assert (deadly["success"], deadly["causes"]) == (False, ["2 processes of the Ray cluster were lost over it"])


def test_another_node_does_what_a_lost_one_had(cluster: RayCluster, new_cluster: NewCluster, tmp_path: Path) -> None:
    names, nodes = "xy", set[str]()

    async def work(errand: Errand) -> Outcome:
        import ray

        node = ray.get_runtime_context().get_node_id()
        (begun := tmp_path / f"{errand.subtask.id}-{len(errand.causes)}").with_suffix(".part").write_text(node)
        begun.with_suffix(".part").rename(begun)
        while not (tmp_path / "go").exists():
            await asyncio.sleep(0.05)
        return Outcome(success=True, result={"node": node, "causes": list(errand.causes)})

    def lose() -> None:
        if eventually(lambda: all((tmp_path / f"{name}-0").exists() for name in names), within_s=90):
            lost = [name for name in names if (tmp_path / f"{name}-0").read_text() == cluster.second_node]
            nodes.update((tmp_path / f"{name}-0").read_text() for name in names)
            cluster.lose_a_node()
            eventually(lambda: all((tmp_path / f"{name}-1").exists() for name in lost), within_s=90)
        (tmp_path / "go").touch()

    agents = new_cluster({"auto_retry": False}, work=work, executor="ray", ray=cluster.address)
    losing = threading.Thread(target=lose)
    losing.start()
    try:
        results = agents.execute_parallel([*map(subtask, names)])
    finally:
        losing.join()
        cluster.add_a_node()
    assert [one["success"] for one in results] == [True] * 2, results
    [left] = {one["result"]["node"] for one in results}
    assert len(nodes) == 2 and left in nodes, "both had some"
    causes = [cause for one in results for cause in one["result"]["causes"]]
    assert causes and all(LOST.fullmatch(cause) for cause in causes)


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
