"""Workers on many machines: processes that lease errands from a store, and may be killed or frozen."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers.live_server import eventually
from minimax_code.cli.worker import worker
from minimax_code.clusters import AgentCluster, Errand, Outcome, SubtaskResult
from minimax_code.clusters.workers import QUEUE, work_off
from minimax_code.errors import InputError
from minimax_code.events import TaskEnded, WorkerStarted
from minimax_code.store import Store

from .conftest import SPECS, subtask, succeed

# A worker whose leases are short. What its errands do is written into a folder, where they also wait to be let go.
WORKER = """
import asyncio, os, sys
from pathlib import Path
from minimax_code.clusters import Outcome
from minimax_code.clusters.workers import work_off
from minimax_code.store import Store

url, owner, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])

async def work(errand):
    (folder / f"{errand.subtask.id}-begun-by-{owner}").touch()
    while (folder / f"hold-{owner}").exists():
        await asyncio.sleep(0.02)
    return Outcome(success=True, result={"by": owner, "causes": list(errand.causes)})

asyncio.run(work_off(Store(url), work, owner=owner, lease_s=1.0))
"""


@contextmanager
def process(url: str, owner: str, folder: Path) -> Generator[subprocess.Popen[bytes], None, None]:
    with subprocess.Popen([sys.executable, "-c", WORKER, url, owner, folder]) as started:
        try:
            yield started
        finally:
            started.kill()


def executing(url: str, *tasks: str) -> tuple[threading.Thread, list[SubtaskResult]]:
    """A cluster that has its sub-tasks done by workers, in a thread."""
    cluster = AgentCluster({"auto_retry": False}, executor="workers", store=url)
    cluster.initialize_agents(SPECS)
    results: list[SubtaskResult] = []
    thread = threading.Thread(target=lambda: results.extend(cluster.execute_parallel([subtask(id) for id in tasks])))
    thread.start()
    return thread, results


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_workers_share_what_there_is_to_do(store_url: str) -> None:
    async def run() -> list[SubtaskResult]:
        stores = [Store(store_url) for _ in range(2)]
        workers = [
            asyncio.create_task(work_off(store, succeed, owner=f"w{i}", at_once=2)) for i, store in enumerate(stores)
        ]
        cluster = AgentCluster(executor="workers", store=store_url)
        cluster.initialize_agents(SPECS)
        try:
            tasks = [subtask(f"{i}", *([f"{i - 3}"] if i >= 3 else [])) for i in range(12)]
            return await cluster.run(tasks)
        finally:
            for one in workers:
                one.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            for store in stores:
                store.close()

    results = asyncio.run(run())
    assert [one["success"] for one in results] == [True] * 12
    store = Store(store_url)
    errands = store.jobs(QUEUE)
    assert (len(errands), {row.token for row in errands}) == (12, {1})  # each was leased once
    assert {row.owner for row in errands} == {"w0", "w1"}
    store.close()


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_worker_frozen_past_its_lease_can_write_nothing(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "hold-a").touch()
    with process(store_url, "a", tmp_path) as first:
        thread, results = executing(store_url, "x")
        assert eventually(lambda: (tmp_path / "x-begun-by-a").exists(), within_s=30)
        first.send_signal(signal.SIGSTOP)
        (tmp_path / "hold-a").unlink()  # it would be done at once
        with process(store_url, "b", tmp_path):
            thread.join(30)
            [result] = results
            assert (result["success"], result["result"]["by"]) == (True, "b")
            assert result["result"]["causes"] == ["the worker a was lost, and what had come of it is not known"]
            store = Store(store_url)
            [row] = store.jobs(QUEUE)
            before = store.events(row.id)
            first.send_signal(signal.SIGCONT)
            time.sleep(1.0)  # it ends its errand, and is refused
            assert first.poll() is None  # and goes on to the next
            assert store.events(row.id) == before
            assert [type(one.event) for one in before] == [WorkerStarted, WorkerStarted, TaskEnded]
            assert (row.owner, row.token) == ("b", 2)
            store.close()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_an_errand_that_takes_its_workers_along_has_failed(store_url: str) -> None:
    store = Store(store_url)
    errand = Errand(subtask=subtask("x"), agent={**SPECS[0], "capabilities": ()}, id="e")  # type: ignore[arg-type]
    store.create(errand.model_dump(mode="json"), queue=QUEUE, job="e")
    for i in range(3):
        log = store.log("e", store.lease("e", f"w{i}", 0.0))
        asyncio.run(log.append(WorkerStarted(worker=f"w{i}", token=i + 1, version="1")))

    async def one() -> None:
        working = asyncio.create_task(work_off(store, succeed, owner="w3"))
        while store.job("e").outcome is None:
            await asyncio.sleep(0.01)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    asyncio.run(one())
    [*_, last] = store.events("e")
    assert isinstance(last.event, TaskEnded)
    assert last.event.result["cause"] == "3 workers were lost over it: w0, w1, w2"
    store.close()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_errands_go_on_without_their_cluster(store_url: str) -> None:
    """Whoever takes up the run finds what workers have done meanwhile."""
    cluster = AgentCluster(executor="workers", store=store_url)
    cluster.initialize_agents(SPECS)
    store = Store(store_url)
    calls: list[str] = []

    async def work(errand: Errand) -> Outcome:
        calls.append(errand.id)
        return await succeed(errand)

    async def run() -> list[SubtaskResult]:
        running = asyncio.create_task(cluster.run([subtask("x"), subtask("y", "x")]))
        while not store.jobs(QUEUE):
            await asyncio.sleep(0.01)
        running.cancel()  # as Ctrl-C does
        await asyncio.gather(running, return_exceptions=True)
        working = asyncio.create_task(work_off(store, work))
        while store.jobs(QUEUE)[0].outcome is None:
            await asyncio.sleep(0.01)
        try:
            return await cluster.resumed(cluster.job or "")
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    results = asyncio.run(run())
    assert [(one["success"], one["attempts"], one["causes"]) for one in results] == [(True, 1, [])] * 2
    assert len(calls) == len(set(calls)) == 2
    store.close()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_who_cancels_the_run_cancels_its_errands(store_url: str) -> None:
    store = Store(store_url)
    cluster = AgentCluster(executor="workers", store=store_url)
    cluster.initialize_agents(SPECS)

    async def run() -> None:
        running = asyncio.create_task(cluster.run([subtask("x")]))
        while not store.jobs(QUEUE):
            await asyncio.sleep(0.01)
        store.wish(cluster.job or "", "cancel")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    assert store.jobs(QUEUE)[0].state == "cancelled"
    store.close()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_the_command_works_until_it_is_told_to_end(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "own_work.py").write_text(
        "from minimax_code.clusters import Outcome\n\n\n"
        "async def do(errand):\n    return Outcome(success=True, result={'said': errand.agent.name})\n"
    )
    command = [
        sys.executable,
        "-c",
        "from minimax_code.cli.main import main; main()",
        "worker",
        "--work",
        "own_work:do",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MINIMAX_CODE_STORE": store_url}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as started:
        try:
            thread, results = executing(store_url, "x")
            thread.join(60)
            assert [one["result"]["said"] for one in results] == ["Ada"]
            started.send_signal(signal.SIGTERM)
            assert started.communicate(timeout=30)[1] == b""
            assert started.returncode == 0
        finally:
            with suppress(ProcessLookupError):
                started.kill()


@pytest.mark.parametrize("name", ["nothing", "os:nothing", "no.such.module:x", ":x"])
def test_work_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(worker, ["--store", str(tmp_path / "a.db"), "--work", name])
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith(f"--work: {name!r} is no MODULE:FUNCTION that can be imported")
