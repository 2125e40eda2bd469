"""Sessions: exact resume, also after a kill, and every way that a run can break."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from openm3.errors import InputError, StoreError, TrainingError
from openm3.train import checkpoint
from openm3.train.corpus import Corpus
from openm3.train.data import Window, Windows
from openm3.train.session import METRICS, Row, Session, SessionConfig

NUM_STEPS = 12


class Bigrams:
    """A learner that depends on everything a real one does: weights, an optimizer's state, random numbers."""

    def __init__(self, breaks_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(257, 257)
        self.optimizer = torch.optim.AdamW(self.table.parameters(), lr=0.1)
        self.random, self.breaks_at, self.count = torch.Generator().manual_seed(1), breaks_at, 0

    def step(self, windows: Sequence[Window]) -> Row:
        loss = torch.tensor(0.0)
        for window in windows:
            ids = torch.from_numpy(window.ids_T)
            row = torch.randint(len(ids) - 1, (16,), generator=self.random)
            loss = loss + torch.nn.functional.cross_entropy(self.table(ids[row]), ids[row + 1]) / len(windows)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.count += 1
        return {"loss": float("nan") if self.count == self.breaks_at else loss.item()}

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "table": self.table.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": self.random.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.table.load_state_dict(state["table"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.random.set_state(state["random"])


def session(folder: Path, *, resume: bool = False, breaks_at: int | None = None, **identity: Any) -> Session:
    data = folder.parent / "data"
    if not data.exists():
        data.mkdir()
        for i in range(9):
            (data / f"{i}.txt").write_text(f"The {i}th of nine documents. " * (i + 2))
    windows = Windows(Corpus.read([data]), lambda text: list(text.encode()), 64, end_id=256, seed=5)
    config = SessionConfig(num_steps=NUM_STEPS, accumulate=2, save_every=3)
    identity = {"lr": 0.1, "data": windows.corpus.digest, **identity}
    return Session(Bigrams(breaks_at), windows, config, folder, identity=identity, resume=resume)


def figures(folder: Path) -> list[Row]:
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The figures of a run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    session(folder).run(on_step=lambda row: None)
    rows = figures(folder)
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1)) and rows[-1]["tokens"] == NUM_STEPS * 2 * 64
    assert rows[-1]["loss"] < rows[0]["loss"] - 1, "it learns"
    return rows


def test_a_run_that_is_stopped_and_resumed_has_the_same_figures(tmp_path: Path, whole: list[Row]) -> None:
    for stop in (2, 3, 7, 100):
        one = session(tmp_path / "run", resume=True)
        one.run(on_step=lambda row: None, should_stop=lambda one=one, stop=stop: one.step >= stop)
    assert one.is_done and figures(tmp_path / "run") == whole == [
        {name: value for name, value in row.items() if name != "seconds"} for row in one.rows()
    ]


def test_a_run_that_is_killed_and_resumed_has_the_same_figures(tmp_path: Path, whole: list[Row]) -> None:
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_session import session
session(Path({str(tmp_path / "run")!r}), resume=True).run(on_step=lambda row: time.sleep(0.02))
"""
    metrics = tmp_path / "run" / METRICS
    for num_lines in (2, 5):  # before the first checkpoint, and between two
        process = subprocess.Popen([sys.executable, "-c", script])
        while not metrics.exists() or len(metrics.read_text().splitlines()) < num_lines:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    metrics.write_text(metrics.read_text() + '{"step": 99, "lo')  # as a kill in the middle of a line leaves it
    session(tmp_path / "run", resume=True).run(on_step=lambda row: None)
    assert figures(tmp_path / "run") == whole


def test_a_run_is_not_begun_over_another_and_not_resumed_with_other_options(tmp_path: Path) -> None:
    session(tmp_path / "run").run(on_step=lambda row: None)
    with pytest.raises(InputError, match=r"^out: .*run has a run already; go on with --resume"):
        session(tmp_path / "run")
    with pytest.raises(InputError, match=r"^lr: was 0.1 when this run began and is 0.2 now"):
        session(tmp_path / "run", resume=True, lr=0.2)
    with pytest.raises(InputError, match=r"^block_size: was None when this run began and is 64 now"):
        session(tmp_path / "run", resume=True, block_size=64)
    (tmp_path / "data" / "more.txt").write_text("one more document")
    with pytest.raises(InputError, match=r"^data: was [0-9a-f]{16} when this run began and is [0-9a-f]{16} now"):
        session(tmp_path / "run", resume=True)


def test_a_loss_that_is_no_number_stops_with_step_batch_and_checkpoint(tmp_path: Path, whole: list[Row]) -> None:
    with pytest.raises(TrainingError) as told:
        session(tmp_path / "run", breaks_at=8).run(on_step=lambda row: None)
    for part in ("step 8: loss is not a number", "in windows 15 to 16 of the data (", ".txt", "checkpoint, of step 6"):
        assert part in str(told.value)
    session(tmp_path / "run", resume=True).run(on_step=lambda row: None)
    assert figures(tmp_path / "run") == whole
    with pytest.raises(TrainingError, match="there is no checkpoint yet"):
        session(tmp_path / "other", breaks_at=1).run(on_step=lambda row: None)


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path, whole: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = checkpoint.save_file, list[Path]()

    def save_file(tensors: Any, path: Path) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    with pytest.raises(StoreError, match=r"No space left on device.*the last good checkpoint is of step 3"):
        session(tmp_path / "run").run(on_step=lambda row: None)
    session(tmp_path / "run", resume=True).run(on_step=lambda row: None)
    assert figures(tmp_path / "run") == whole


def test_metrics_that_can_not_be_written_are_told(tmp_path: Path) -> None:
    one = session(tmp_path / "run")
    (tmp_path / "run" / METRICS).unlink()
    (tmp_path / "run" / METRICS).mkdir()
    with pytest.raises(StoreError, match=r"metrics.jsonl: can't be written \(Is a directory\)"):
        one.run(on_step=lambda row: None)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: can't be written \(File exists\)"):
        session(tmp_path / "file")


@pytest.mark.parametrize("name", ["num_steps", "accumulate", "save_every"])
def test_counts_are_at_least_one(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: must be at least 1, got 0"):
        SessionConfig(**{"num_steps": 1, name: 0})
