"""Workers that are killed, frozen, replaced by another version, or that find the disk full."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

import minimax_code
from helpers.dying import DyingWorkers, When, dying_workers, work_of
from helpers.steps import UNKNOWN, work
from minimax_code.errors import StoreError
from minimax_code.events import ToolEnded, ToolIntended, Unknown, WorkerStarted
from minimax_code.jobs import Job, JobSpec
from minimax_code.jobs.worker import work_on
from minimax_code.store import Store
from minimax_code.store.tables import VERSION
from minimax_code.work.strategy import Wanted
from minimax_code.work.task import Task


@pytest.fixture(scope="module")
def workers() -> Generator[DyingWorkers, None, None]:
    with dying_workers() as process:
        yield process


@contextmanager
def python(script: str, *arguments: object, path: tuple[str, ...] = ()) -> Generator[subprocess.Popen[str], None, None]:
    """A process that runs a script, with other folders in front of the modules' path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*path, *sys.path])}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def lines(effects: Path) -> list[str]:
    return effects.read_text().split()


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_kill_9_at_every_event(when: When, workers: DyingWorkers, tmp_path: Path) -> None:
    """What was done is done once, and all of it is in the end; a step that was cut off is told as such."""
    num_unknown = 0
    for n in range(1, 100):
        (folder := tmp_path / str(n)).mkdir()
        store = Store(str(folder / "jobs.db"))
        job = store.create({})
        if not workers.work(store.url, job, "first", n, when):
            break
        assert len(store.events(job)) == (n if when == "after" else n - 1)
        if not store.job(job).outcome:
            asyncio.run(work_on(store, store.lease(job, "second", 10), work_of(store.url)))
        assert store.job(job).state == "passed"
        assert lines(folder / "effects") == ["0", "1", "2"]
        events = [one.event for one in store.events(job)]
        intended = [one.call.id for one in events if isinstance(one, ToolIntended)]
        ended = [one for one in events if isinstance(one, ToolEnded)]
        assert [one.call_id for one in ended] == intended, "each call has one outcome"
        num_unknown += sum(one.output == UNKNOWN for one in ended)
        store.close()
    # The beginning, two events for each step, and the end: the kill between the two leaves the step's outcome unknown.
    assert n == 1 + 2 * 3 + 1 + 1
    assert num_unknown == 3


@pytest.mark.parametrize("strategy", ["agent", "pipeline"])
def test_kill_9_at_every_event_of_a_task(strategy: Wanted, workers: DyingWorkers, tmp_path: Path) -> None:
    """Each time something was done and isn't written down yet: a reply, a command, a check, a verdict.

    One worker after the other dies over the first event over which none has died, by its kind and agent. One that is
    started in a dead one's place goes on in its folder, any other in one of its own.
    """
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").write_text("one\n")
    store, deaths = Store(str(tmp_path / "jobs.db")), ["WorkerStarted:"]
    task = Task(description="Write notes", checks=["grep -qx two notes.txt"])
    spec = JobSpec.of(task, folder=str(tmp_path / "source"), strategy=strategy)
    job = store.create(spec.model_dump(mode="json"))
    while killed_over := workers.work(store.url, job, f"worker-{len(deaths) // 2}", 1, "before", deaths):
        deaths.append(killed_over)
    result = Job(store, job).get_results()
    assert (result.success, result.strategy) == (True, strategy), result
    assert (result.files_changed, result.issues) == (("notes.txt",), ())
    assert result.diff.endswith("\n one\n+two\n"), "the command that adds a line counts once"
    events = [one.event for one in store.events(job)]
    intended = [one.call.id for one in events if isinstance(one, ToolIntended)]
    if strategy == "pipeline":  # it begins anew each time, with the answers that it had
        intended = [*dict.fromkeys(intended)]
    assert [one.call_id for one in events if isinstance(one, ToolEnded)] == intended
    assert sum(isinstance(one, WorkerStarted) for one in events) == len(deaths) > 15
    assert {name.split(":")[0] for name in deaths} == {type(one).__name__ for one in events}
    assert (tmp_path / "source" / "notes.txt").read_text() == "one\n", "the user's own"
    store.close()


FROZEN = """
import asyncio, sys, time
from pathlib import Path
from helpers.steps import work
from minimax_code.jobs.worker import work_on
from minimax_code.store import Store

async def during(i):
    print("in step", i, flush=True)
    while not Path(sys.argv[4]).exists():  # without a look at anything else: what it does next is write
        time.sleep(0.01)

store = Store(sys.argv[1])
lease = store.lease(sys.argv[2], "frozen", 0.2)
asyncio.run(work_on(store, lease, work(Path(sys.argv[3]), 3, during)))
"""


def test_a_worker_that_was_frozen_past_its_lease(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    job, effects, thaw = store.create({}), tmp_path / "effects", tmp_path / "thaw"
    with python(FROZEN, store_url, job, effects, thaw) as worker:
        assert worker.stdout and worker.stderr
        assert worker.stdout.readline() == "in step 0\n"
        worker.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while store.job(job).leased and time.monotonic() < deadline:
            time.sleep(0.01)
        assert store.job(job).state == "crashed_resumable"
        asyncio.run(work_on(store, store.lease(job, "second", 10), work(effects, 3)))
        before = store.events(job)
        thaw.touch()
        worker.send_signal(signal.SIGCONT)
        assert worker.wait(60) == 1
        # Told by the write or by the renewal of the lease, whichever came first.
        assert re.search(rf"LeaseError: {job} was taken by (second: nothing|another worker)", worker.stderr.read())
    assert store.events(job) == before
    assert store.job(job).state == "passed"
    assert lines(effects) == ["0", "1", "2"]
    store.close()


FILLING = """
import asyncio, os, sys
from pathlib import Path
from minimax_code.errors import StoreError
from minimax_code.events import Told
from minimax_code.store import Store

folder = Path(sys.argv[1])
ballast = folder / "ballast"
ballast.write_bytes(b"x" * 500_000)
store = Store(str(folder / "jobs.db"))
lease = store.lease(store.create({}), "w", 1000)
log = store.log(lease.job, lease)
num_written, refused = 0, ""
while not refused:
    try:
        asyncio.run(log.append(Told(text="x" * 40_000)))
        num_written += 1
    except StoreError as error:
        refused = str(error)
assert len(store.events(lease.job)) == num_written > 3
ballast.unlink()
asyncio.run(log.append(Told(text="there is room again")))
assert len(store.events(lease.job)) == num_written + 1
print(refused)
"""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A file system of two megabytes: the event that doesn't fit is refused, and those before it are whole."""
    command = ["bwrap", "--dev-bind", "/", "/", "--size", "2000000", "--tmpfs", tmp_path, sys.executable, "-c", FILLING]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"the store \S+jobs.db can't be used: (database or disk is full|disk I/O error)\n", done.stdout)


OF_ANY_VERSION = """
import asyncio, importlib.machinery, os, signal, sys
from pathlib import Path
sys.meta_path.insert(0, importlib.machinery.PathFinder)  # an editable install has a finder that comes before the path
from helpers.steps import work
from minimax_code import events
from minimax_code.jobs.worker import work_on
from minimax_code.store import Store

store = Store(sys.argv[1])
effects, num_steps = Path(sys.argv[3]), int(sys.argv[4])

async def during(i):
    if i == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)

async def steps(assignment, log):
    if hasattr(events, "Dreamt"):
        await log.append(events.Dreamt(of="sheep"))
    await work(effects, num_steps, during)(assignment, log)

asyncio.run(work_on(store, store.lease(sys.argv[2], "w", 0), steps))
"""


def newer_package(folder: Path, module: str, **edits: str) -> Path:
    """A newer version of the package, in which some words of a module are others."""
    newer = folder / "newer"
    shutil.copytree(Path(minimax_code.__path__[0]), newer / "minimax_code")
    text = (path := newer / "minimax_code" / module).read_text()
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    (newer / "openm3-9.9.dist-info").mkdir()
    (newer / "openm3-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: openm3\nVersion: 9.9\n")
    return newer


def test_the_package_changes_in_the_middle(tmp_path: Path) -> None:
    """A worker dies, a newer version goes on and dies, and the old one ends what the newer one wrote events of."""
    edits = {
        "    failed: bool\n": "    failed: bool\n    mood: str = 'calm'\n",
        "class Told(Event):": "class Dreamt(Event):\n    of: str\n\n\nclass Told(Event):",
    }
    newer = newer_package(tmp_path, "events.py", **edits)
    url, effects = str(tmp_path / "jobs.db"), tmp_path / "effects"
    store = Store(url)
    job = store.create({})
    for path, dies_at in (((), 1), ((str(newer),), 3), ((), -1)):
        with python(OF_ANY_VERSION, url, job, effects, 5, dies_at, path=path) as worker:
            assert worker.stderr
            code = worker.wait(60)
            assert code == (-signal.SIGKILL if dies_at >= 0 else 0), worker.stderr.read()
    assert store.job(job).state == "passed"
    assert lines(effects) == ["0", "1", "2", "3", "4"]
    recorded = [one.event for one in store.events(job)]
    ours = importlib.metadata.version("openm3")
    assert [one.version for one in recorded if isinstance(one, WorkerStarted)] == [ours, "9.9", ours]
    assert Unknown(kind="Dreamt", data={"of": "sheep"}) in recorded
    with store._database.read() as connection:
        data = connection.execute(sa.text("SELECT data FROM events WHERE kind = 'ToolEnded'")).scalars().all()
    assert sum("calm" in text for text in data) == 2, "what the newer one wrote is kept whole"
    store.close()


def test_the_tables_change_in_the_middle(tmp_path: Path) -> None:
    """The newer version adds what its tables have and goes on; the old one says that it can't any more."""
    edits = {
        f"\nVERSION = {VERSION}\n": f"\nVERSION = {VERSION + 1}\n",
        'sa.Column("told",': 'sa.Column("mood", sa.Text, nullable=False, server_default="calm"), sa.Column("told",',
    }
    newer = newer_package(tmp_path, "store/tables.py", **edits)
    row = newer / "minimax_code" / "store" / "row.py"
    row.write_text(row.read_text().replace("    told: int\n", "    told: int\n    mood: str\n"))
    url, effects = str(tmp_path / "jobs.db"), tmp_path / "effects"
    store = Store(url)
    job = store.create({})
    for path, dies_at in (((), 1), ((str(newer),), -1)):
        with python(OF_ANY_VERSION, url, job, effects, 3, dies_at, path=path) as worker:
            assert worker.stderr
            code = worker.wait(60)
            assert code == (-signal.SIGKILL if dies_at >= 0 else 0), worker.stderr.read()
    assert lines(effects) == ["0", "1", "2"]
    assert store.job(job).state == "passed", "who has it open already can still read it"
    store.close()
    with pytest.raises(StoreError, match="is of a newer MiniMax Code; update this one with pip install -U openm3"):
        Store(url)
