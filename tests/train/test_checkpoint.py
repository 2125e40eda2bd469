"""Checkpoints: what is put in comes out, whole or not at all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from openm3.errors import StoreError
from openm3.train import checkpoint


def state_of(seed: int) -> dict[str, object]:
    torch.manual_seed(seed)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    shared = torch.arange(4)
    return {
        "optimizer": optimizer.state_dict(),
        "position": {"epoch": 1, "offset": 17},
        "random": torch.get_rng_state(),
        "lr": 0.1 + 0.2,
        "nothing": None,
        "views": [shared, shared[1:]],
    }


def test_a_state_with_an_optimizer_comes_back_to_the_bit(tmp_path: Path) -> None:
    state = state_of(1)
    checkpoint.save(tmp_path / "runs", 12, state)
    loaded = checkpoint.load(tmp_path / "runs")
    assert loaded is not None and loaded[0] == 12
    assert repr(loaded[1]) == repr(state).replace("(0.9, 0.999)", "[0.9, 0.999]")
    optimizer = torch.optim.AdamW(torch.nn.Linear(3, 2).parameters())
    optimizer.load_state_dict(loaded[1]["optimizer"])
    torch.testing.assert_close(loaded[1]["random"], state["random"], rtol=0, atol=0)


def test_the_newest_few_stay(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    for step in (5, 10, 15, 20):
        checkpoint.save(tmp_path, step, {"a": torch.tensor([step])})
    assert checkpoint.steps(tmp_path) == [15, 20]
    checkpoint.save(tmp_path, 20, {"a": torch.tensor([99])})
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None and loaded[1]["a"].item() == 99


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_a_damaged_one_is_told_with_what_to_do(tmp_path: Path, file: str) -> None:
    checkpoint.save(tmp_path, 1, {"a": torch.zeros(100)})
    last = checkpoint.save(tmp_path, 2, {"a": torch.zeros(100)}) / file
    data = bytearray(last.read_bytes())
    data[-20] ^= 4
    last.write_bytes(data)
    told = re.escape(f"{last.parent}: is damaged (") + ".*delete it to go on from step 1"
    with pytest.raises(StoreError, match=told):
        checkpoint.load(tmp_path)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A limit of the file size stands for the full disk: the system refuses to write more, in the middle of a file."""
    checkpoint.save(tmp_path, 1, {"a": torch.ones(10)})
    script = f"""
import resource, signal, torch
from pathlib import Path
from openm3.errors import StoreError
from openm3.train import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    checkpoint.save(Path({str(tmp_path)!r}), 2, {{"a": torch.ones(1 << 20)}})
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "can't be written" in done.stdout and "the last good checkpoint is of step 1" in done.stdout, done
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_kill_at_any_moment_leaves_a_whole_one(tmp_path: Path) -> None:
    script = f"""
import itertools, torch
from pathlib import Path
from openm3.train import checkpoint
for step in itertools.count(1):
    checkpoint.save(Path({str(tmp_path)!r}), step, {{"a": torch.full((1 << 18,), float(step)), "step": step}})
"""
    for delay in (0.01, 0.04):
        process = subprocess.Popen([sys.executable, "-c", script])
        known = checkpoint.steps(tmp_path)
        while checkpoint.steps(tmp_path) == known:
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        loaded = checkpoint.load(tmp_path)
        assert loaded is not None and loaded[1]["step"] == loaded[0]
        assert (loaded[1]["a"] == loaded[0]).all()
