"""Clusters of scripted agents, from sub-tasks to results."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from minimax_code.clusters import Agent, AgentCluster, Errand, Outcome, Progress, Subtask, TaskRouter
from minimax_code.errors import BudgetError, InputError, LeaseError, WorkspaceError
from minimax_code.events import CheckpointReached, SubtaskBegan, SubtaskEnded
from minimax_code.jobs.worker import LEASE_S
from minimax_code.store import Store

from .conftest import SPECS, NewCluster, subtask, succeed


def test_each_begins_as_soon_as_it_can(new_cluster: NewCluster) -> None:
    """What depends on a quick one does not wait for a slow one that began with it."""
    order: list[str] = []
    released = asyncio.Event()

    async def work(errand: Errand) -> Outcome:
        name = errand.subtask.id
        if name == "slow":
            await released.wait()
        if name == "after":
            released.set()
        order.append(name)
        return Outcome(success=True, result={"summary": f"{name} is there"})

    cluster = new_cluster(work=work)
    tasks = [subtask("slow"), subtask("quick"), subtask("after", "quick"), subtask("last", "slow", "after")]
    results = cluster.execute_parallel(tasks)
    assert order == ["quick", "after", "slow", "last"]
    assert [(one["task_id"], one["success"], one["attempts"]) for one in results] == [
        (task["id"], True, 1) for task in tasks
    ]
    assert cluster.progress is not None and (cluster.progress.percent, cluster.progress.waiting) == (100, 0)


def test_what_others_did_before_is_told(new_cluster: NewCluster) -> None:
    told: dict[str, Errand] = {}

    async def work(errand: Errand) -> Outcome:
        told[errand.subtask.id] = errand
        return await succeed(errand)

    new_cluster(work=work).execute_parallel([subtask("c", "b"), subtask("b", "a"), subtask("a"), subtask("d")])
    assert list(told["c"].inputs) == ["a", "b"]  # also what it stands on without naming it
    assert "Done before (a): a by" in told["c"].text
    assert told["d"].text == "Do d"


def test_results_have_their_causes(new_cluster: NewCluster) -> None:
    async def work(errand: Errand) -> Outcome:
        match errand.subtask.id, errand.attempt:
            case "flaky", 1:
                return Outcome(success=False, cause="test_total fails")
            case "flaky", 2:
                assert "Attempt 1 failed: test_total fails" in errand.text
                raise BudgetError("tokens", "all tokens are used up")
            case "broken", _:
                raise ValueError("no")
        return await succeed(errand)

    cluster = new_cluster({"max_retries": 2}, work=work)
    flaky, broken, after, last = cluster.execute_parallel(
        [subtask("flaky"), subtask("broken"), subtask("after", "broken"), subtask("last", "after")]
    )
    assert (flaky["success"], flaky["attempts"]) == (True, 3)
    assert flaky["causes"] == ["test_total fails", "all tokens are used up"]
    assert (broken["success"], broken["causes"]) == (False, ["ValueError: no"] * 3)
    assert (after["agent_id"], after["attempts"], after["causes"]) == (
        None, 0, ["'broken', which it depends on, has not been done"]
    )  # fmt: skip
    assert last["causes"] == ["'after', which it depends on, has not been done"]
    assert cluster.progress is not None
    assert (cluster.progress.done, cluster.progress.failed, cluster.progress.blocked) == (1, 1, 2)


@pytest.mark.parametrize("config", [{"auto_retry": False}, {"max_retries": 0}])
def test_without_retries_one_attempt_is_all(new_cluster: NewCluster, config: dict[str, object]) -> None:
    async def work(errand: Errand) -> Outcome:
        return Outcome(success=False, cause="no")

    [result] = new_cluster(config, work=work).execute_parallel([subtask("a")])
    assert result["attempts"] == 1


def test_another_agent_tries_what_one_has_failed_at(new_cluster: NewCluster) -> None:
    async def work(errand: Errand) -> Outcome:
        return Outcome(success=errand.attempt == 2, cause="no")

    specs = [{**SPECS[0], "id": name} for name in ("first", "second")]
    [result] = new_cluster(specs=specs, work=work).execute_parallel([subtask("a")])
    assert (result["agent_id"], result["attempts"]) == ("second", 2)


def test_sequential_is_one_at_a_time(new_cluster: NewCluster) -> None:
    most = running = 0

    async def work(errand: Errand) -> Outcome:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return await succeed(errand)

    new_cluster({"execution_mode": "sequential"}, work=work).execute_parallel([subtask(name) for name in "abcdef"])
    assert most == 1


def test_the_best_match_is_chosen_then_the_most_room() -> None:
    agents = [Agent(spec["id"], "x", "x", spec["capabilities"], work=succeed) for spec in SPECS]  # type: ignore[arg-type]
    py, web, qa = agents
    router = TaskRouter()

    def chosen(*required: str, avoid: tuple[str, ...] = ()) -> Agent | None:
        task = Subtask(id="a", description="x", required_capabilities=required)
        return router.select(agents, task, avoid=avoid)

    assert (chosen("python", "pytest"), chosen("CSS"), chosen("postgresql", "python")) == (qa, web, py)
    assert chosen("python") is py
    py.begin()
    assert chosen("python") is qa
    assert chosen("python", avoid=["qa"]) is py  # type: ignore[arg-type]
    py.begin(), py.begin()
    assert not py.is_available()
    assert chosen("postgresql") is None  # rather than somebody who knows nothing of it
    assert chosen("fortran") is web  # nobody knows it: who has least to do
    py.end()
    assert chosen("postgresql") is py


def test_an_agent_alone_does_as_the_article_has_it() -> None:
    agent = Agent(id="a", name="Ada", role="Engineer", capabilities=["python"], max_concurrent_tasks=2, work=succeed)
    assert {agent: [1]}[agent] == [1] and agent.is_available()
    assert agent.execute(subtask("x", "y")) == {"summary": "x by a", "success": True, "cause": ""}
    assert agent.num_running == 0


def test_nobody_waits_while_something_could_be_done(new_cluster: NewCluster) -> None:
    """200 sub-tasks for 8 agents, most after another one; they end one at a time, and then all who can must work."""
    specs = [{**SPECS[0], "id": f"agent-{i}", "max_concurrent": 1} for i in range(8)]
    before = {f"{i}": [f"{i - 40 - i % 3}"] if i >= 43 else [] for i in range(200)}
    running: dict[str, asyncio.Event] = {}
    done: set[str] = set()
    drawn = random.Random(0)

    async def work(errand: Errand) -> Outcome:
        ends = running[errand.subtask.id] = asyncio.Event()
        await asyncio.wait_for(ends.wait(), 60)
        return Outcome(success=True)

    async def end_one_after_the_other() -> None:
        while len(done) < len(before):
            free = [name for name, needs in before.items() if name not in done and done.issuperset(needs)]
            async with asyncio.timeout(60):
                while len(running) < min(8, len(free)):
                    await asyncio.sleep(0.001)
            assert len(running) == min(8, len(free)) and set(running) <= set(free)
            name = drawn.choice(sorted(running))
            done.add(name)
            running.pop(name).set()

    async def both() -> None:
        cluster = new_cluster(specs=specs, work=work)
        tasks = [subtask(name, *needs) for name, needs in before.items()]
        results, _ = await asyncio.gather(cluster.run(tasks), end_one_after_the_other())
        assert all(one["success"] for one in results)
        assert len({one["agent_id"] for one in results}) == 8

    asyncio.run(both())


def test_a_run_goes_on_where_its_process_has_ended(new_cluster: NewCluster, tmp_path: Path) -> None:
    done: list[str] = []
    told: list[str] = []

    async def work(errand: Errand) -> Outcome:
        done.append(errand.subtask.id)
        told.append(errand.text)
        return await succeed(errand)

    def die(progress: Progress) -> None:
        if progress.running and progress.done == 2:
            raise KeyboardInterrupt

    tasks = [subtask("a"), subtask("b", "a"), subtask("c", "b"), subtask("d", "c")]
    first = new_cluster(work=work, on_progress=die)
    with pytest.raises(KeyboardInterrupt):
        first.execute_parallel(tasks)
    assert done == ["a", "b"] and first.job is not None
    second = new_cluster(work=work)
    results = second.resume(first.job)
    assert done == ["a", "b", "c", "d"]
    assert [one["success"] for one in results] == [True] * 4
    assert "Attempt 1 failed: it was interrupted, and what had come of it is not known" in told[2]
    assert results[2]["attempts"] == 2
    assert new_cluster().resume(first.job) == results  # there is nothing to do any more
    assert done == ["a", "b", "c", "d"]
    store = Store(str(tmp_path / "runs.db"))
    events = [one.event for one in store.events(first.job)]
    assert len([one for one in events if isinstance(one, SubtaskBegan)]) == 5
    assert len([one for one in events if isinstance(one, SubtaskEnded)]) == 4
    assert (store.job(first.job).state, store.jobs()) == ("passed", [])
    store.close()


def test_a_run_that_is_alive_is_not_taken(new_cluster: NewCluster, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "runs.db"))
    job = store.create({"subtasks": [subtask("a")]}, queue="clusters")
    store.lease(job, "elsewhere", LEASE_S)
    with pytest.raises(LeaseError, match="is held by elsewhere"):
        new_cluster().resume(job)
    other = store.create({})
    with pytest.raises(InputError, match=f"job: {other} is no run of a cluster"):
        new_cluster().resume(other)
    store.close()


def test_a_run_is_paused_and_goes_on(new_cluster: NewCluster, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "runs.db"))

    def pause(progress: Progress) -> None:
        if progress.done == 1 and cluster.job:
            store.wish(cluster.job, "pause")

    cluster = new_cluster(on_progress=pause, config={"execution_mode": "sequential"})
    results = cluster.execute_parallel([subtask("a"), subtask("b", "a"), subtask("c", "b")])
    assert [one["success"] for one in results] == [True, False, False]
    assert cluster.job and store.job(cluster.job).state == "paused"
    assert all(one["success"] for one in new_cluster().resume(cluster.job))
    store.close()


def test_checkpoints_are_marked(new_cluster: NewCluster, tmp_path: Path) -> None:
    async def work(errand: Errand) -> Outcome:
        await asyncio.sleep(0.02)
        return Outcome(success=True)

    cluster = new_cluster({"checkpoint_frequency": 0.03, "execution_mode": "sequential"}, work=work)
    cluster.execute_parallel([subtask(name) for name in "abcdef"])
    store = Store(str(tmp_path / "runs.db"))
    marked = [one.event for one in store.events(cluster.job or "") if isinstance(one.event, CheckpointReached)]
    assert len(marked) >= 2
    store.close()


def test_the_changes_of_all_come_together(new_cluster: NewCluster, tmp_path: Path) -> None:
    """In the order in which they depend on each other, not as they were given; what failed has no part in it."""
    diff = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+{0}\n"
    second = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-x\n+{}\n"

    async def work(errand: Errand) -> Outcome:
        name = errand.subtask.id
        changed = diff.format(name) if name in "xyz" else second.format(name)
        return Outcome(success=name != "z", result={"diff": changed}, cause="no")

    cluster = new_cluster({"auto_retry": False}, work=work)
    assert cluster.diff == ""
    cluster.execute_parallel([subtask("a", "x"), subtask("x"), subtask("y"), subtask("z")])
    assert "+a\n" in cluster.diff and "b/y" in cluster.diff and "b/z" not in cluster.diff
    cluster.execute_parallel([subtask("a", "x"), subtask("b", "x"), subtask("x")])
    with pytest.raises(WorkspaceError, match="what 'b' has changed doesn't go together"):
        _ = cluster.diff


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_agent": 3}, "config.max_agent: is not understood; there is max_agents"),
        ({"max_agents": 0}, "config.max_agents: input should be greater than or equal to 1"),
        ({"execution_mode": "fast"}, "config.execution_mode: input should be 'parallel' or 'sequential'"),
        ({"auto_retry": "yes"}, "config.auto_retry: input should be a valid boolean"),
        ({"checkpoint_frequency": 0}, "config.checkpoint_frequency: input should be greater than 0"),
    ],
)
def test_configurations_are_refused_by_their_field(config: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as refused:
        AgentCluster(config, work=succeed)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([{"id": "a", "name": "A", "role": "x"}], "agents.0.capabilities: is missing"),
        ([{**SPECS[0], "capability": "x"}], "agents.0.capability: is not understood; there is capabilities"),
        ([{**SPECS[0], "capabilities": "python"}], "agents.0.capabilities: 'python' is one text; give a list of them"),
        ([{**SPECS[0], "max_concurrent": 0}], "agents.0.max_concurrent_tasks: must be 1 or more, got 0"),
        ([{**SPECS[0], "strategy": "x"}], "agents.0.strategy: 'x' is none; there are auto, agent, pipeline"),
        ([SPECS[0], SPECS[0]], "agents: the id 'py' is there twice"),
        (SPECS, "agents: 3 are more than the 2 of config.max_agents"),
    ],
)
def test_agents_are_refused_by_their_field(
    new_cluster: NewCluster, specs: list[dict[str, object]], message: str
) -> None:
    cluster = new_cluster({"max_agents": 2}, specs=[])
    with pytest.raises(InputError) as refused:
        cluster.initialize_agents(specs)
    assert str(refused.value) == message
    assert cluster.agents == []


def test_an_agents_strategy_is_its_own_or_the_clusters(new_cluster: NewCluster) -> None:
    cluster = new_cluster(strategy="pipeline", specs=[SPECS[0], {**SPECS[1], "strategy": "agent"}])
    assert [agent.spec.strategy for agent in cluster.agents] == ["pipeline", "agent"]


def test_what_cannot_work_is_refused(new_cluster: NewCluster, tmp_path: Path) -> None:
    for call in ("decompose_task", "execute_parallel", "resume"):
        with pytest.raises(InputError, match="agents: there are none yet; call initialize_agents first"):
            getattr(new_cluster(specs=[]), call)("x" if call != "execute_parallel" else [subtask("a")])
    assert new_cluster().execute_parallel([]) == []
    for options, message in (
        ({"executor": "threads"}, "executor: 'threads' is not known"),
        ({"executor": "workers"}, "work: is the workers' own here"),
        ({"strategy": "x"}, "strategy: 'x' is none; there are auto, agent, pipeline"),
        ({"folder": tmp_path / "x"}, f"folder: {tmp_path / 'x'} is not there"),
    ):
        with pytest.raises(InputError, match=message):
            new_cluster(**options)
