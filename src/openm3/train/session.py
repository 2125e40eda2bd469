"""A training session: steps over a stream of windows, with metrics, checkpoints and exact resume."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from openm3.errors import InputError, StoreError, TrainingError
from openm3.train import checkpoint
from openm3.train.data import Stream, Window

METRICS, CHECKPOINTS = "metrics.jsonl", "checkpoints"

Row = dict[str, Any]  # one line of the metrics


class Learner(Protocol):
    """What a session teaches."""

    def step(self, windows: Sequence[Window]) -> Row:
        """Learns from one batch; returns the figures of the step, which JSON can hold."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Everything that the next steps depend on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from such a state."""
        ...


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """How a session runs; nothing here changes what is learnt but `num_steps` and `accumulate`.

    Attributes:
        num_steps: in all.
        accumulate: windows of a step.
        save_every: steps between checkpoints; one is also written at the end and when somebody stops the session.
    """

    num_steps: int
    accumulate: int = 1
    save_every: int = 50

    def __post_init__(self) -> None:
        for name in ("num_steps", "accumulate", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(name, f"must be at least 1, got {getattr(self, name)}")


class Session:
    """A run in a folder, which holds `metrics.jsonl` with a line for each step, and `checkpoints/`.

    Args:
        learner, windows, config: what learns from what, and how.
        folder: of the run; made where it isn't there.
        identity: by name, everything that the figures depend on: options, data, model. JSON can hold it.
        resume: go on from the folder's newest checkpoint; from the beginning if there is none.
        writes: whether this process writes the folder: the first one of several that learn together, in which all do
            the same steps and are asked for their state together.

    Attributes:
        step: how many steps are done.
        seconds: how long they took, those before a resume included.

    Raises:
        InputError: the folder has a run already and `resume` is not set, or its identity is another one; the field
            says which part.
        StoreError: the checkpoint is damaged.
    """

    def __init__(
        self,
        learner: Learner,
        windows: Stream,
        config: SessionConfig,
        folder: Path,
        *,
        identity: Mapping[str, Any],
        resume: bool = False,
        writes: bool = True,
    ) -> None:
        self._writes = writes
        self.learner, self.windows, self.config, self.folder = learner, windows, config, folder
        self.step, self.seconds, self._identity = 0, 0.0, json.loads(json.dumps(dict(identity)))
        if not resume and checkpoint.steps(self._checkpoints):
            raise InputError("out", f"{folder} has a run already; go on with --resume, or take another folder")
        if resume and (found := checkpoint.load(self._checkpoints)) is not None:
            self._go_on(*found)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if writes:
                self._cut_metrics()
        except OSError as error:
            raise StoreError(f"{folder}: can't be written ({error.strerror})") from error

    @property
    def is_done(self) -> bool:
        """Whether every step is done."""
        return self.step >= self.config.num_steps

    def run(self, *, on_step: Callable[[Row], None], should_stop: Callable[[], bool] = lambda: False) -> None:
        """Does the steps that are left, and saves; a stop ends after the step at hand.

        Raises:
            TrainingError: a figure is no number any more.
            StoreError: a checkpoint or the metrics could not be written; the checkpoints before are still there.
            InputError: the data has changed or is too short.
        """
        saved = self.step
        while not self.is_done:
            row = self._do_step()
            on_step(row)
            stops = should_stop()
            if stops or self.is_done or self.step % self.config.save_every == 0:
                self.save()
                saved = self.step
            if stops:
                return
        assert saved == self.step

    def save(self) -> None:
        """Writes a checkpoint of the steps that are done."""
        state = {
            "identity": json.dumps(self._identity),
            "data": self.windows.state_dict(),
            "seconds": self.seconds,
            "learner": self.learner.state_dict(),
        }
        if self._writes:
            checkpoint.save(self._checkpoints, self.step, state)

    def rows(self) -> list[Row]:
        """The metrics of all steps."""
        return rows_of(self.folder / METRICS)

    @property
    def _checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    def _do_step(self) -> Row:
        started = time.perf_counter()
        num_before = self.windows.num_windows
        windows = list(islice(self.windows, self.config.accumulate))
        figures = self.learner.step(windows)
        self.step += 1
        self.seconds += time.perf_counter() - started
        if (name := _not_finite(figures)) is not None:
            raise TrainingError(self._what_broke(name, num_before + 1, windows))
        tokens = self.step * self.config.accumulate * self.windows.window
        row = {"step": self.step, "tokens": tokens, "seconds": round(self.seconds, 3), **figures}
        if not self._writes:
            return row
        try:
            with open(self.folder / METRICS, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StoreError(
                f"{self.folder / METRICS}: can't be written ({error.strerror}); {self._last_good()}"
            ) from error
        return row

    def _go_on(self, step: int, state: Mapping[str, Any]) -> None:
        _check_same(json.loads(state["identity"]), self._identity)
        self.learner.load_state_dict(state["learner"])
        self.windows.load_state_dict(state["data"])
        self.step, self.seconds = step, state["seconds"]

    def _cut_metrics(self) -> None:
        """Leaves the metrics of the steps that are done: those behind the checkpoint come again."""
        path = self.folder / METRICS
        kept = [row for row in rows_of(path) if row["step"] <= self.step]
        beside = path.with_suffix(".writing")
        beside.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(beside, path)

    def _what_broke(self, name: str, first: int, windows: Sequence[Window]) -> str:
        corpus = self.windows.corpus
        files = list(dict.fromkeys(corpus.name(document) for window in windows for document in window.documents))
        shown = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        which = f"window {first}" if len(windows) == 1 else f"windows {first} to {first + len(windows) - 1}"
        return (
            f"step {self.step}: {name} is not a number any more, in {which} of the data ({shown}); "
            f"{self._last_good()}; a smaller learning rate may help"
        )

    def _last_good(self) -> str:
        known = checkpoint.steps(self._checkpoints)
        where = f"{self._checkpoints} has the last good checkpoint, of step {known[-1]}" if known else ""
        return where or "there is no checkpoint yet"


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if old != new:
            raise InputError(name, f"was {old} when this run began and is {new} now; a run goes on only as it began")


def _not_finite(figures: Mapping[str, Any]) -> str | None:
    """The name of a figure that is infinite or no number."""
    for name, value in figures.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                return name
    return None


def rows_of(path: Path) -> list[Row]:
    """The lines of a metrics file; a last one that a kill has cut is none."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
