"""Runs of language-model training: what they learn, exact resume, several processes, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.command import OPENM3
from helpers.tiny import write_tiny_model
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.errors import InputError, OpenM3Error, TrainingError
from openm3.train.language_run import LanguageRun
from openm3.train.run_config import RunConfig
from openm3.train.schedule import share_of_peak
from openm3.train.sharding import Group, joined

STEPS = 8
CONFIG = """
[model]
preset = "tiny"
init_std = 0.1
changes = { num_hidden_layers = 2, moe_layer_freq = [0, 1], hidden_size = 32, sparse_attention_config = { \
sparse_attention_freq = [0, 1], sparse_disable_index_value = [0, 1] } }
[data]
paths = ["TEXT"]
window = 80
held_out = 0.2
[training]
steps = 8
windows_per_step = 4
windows_at_once = 1
lr = 1e-2
dtype = "float32"
schedule = "wsd"
warmup_steps = 2
decay_steps = 3
save_every = 3
[alignment]
dense_steps = 3
[evaluation]
every = 4
windows = 4
"""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(12):
        lines = (f"def function_{j}(argument):\n    return argument + {j * i}\n" for j in range(1, 8 + i))
        (folder / f"{i}.py").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with joined("cpu") as group:
        yield group


def write_config(text: Path, changed: dict[str, str] | None = None) -> Path:
    config = CONFIG.replace("TEXT", str(text))
    for old, new in (changed or {}).items():
        assert old in config
        config = config.replace(old, new)
    path = text.parent / "run.toml"
    path.write_text(config)
    return path


def start(text: Path, group: Group, out: str = "run", resume: bool = False, **changed: str) -> LanguageRun:
    """A run of the configuration with some lines of it changed: the key's new value."""
    lines = CONFIG.splitlines()
    found = {key: next(line for line in lines if line.startswith(f"{key} = ")) for key in changed}
    path = write_config(text, {found[key]: f"{key} = {value}" for key, value in changed.items()})
    return LanguageRun(RunConfig.read(path), text.parent / out, group, resume=resume)


def go(run: LanguageRun, stop_at: int = STEPS) -> list[dict[str, Any]]:
    run.session.run(on_step=lambda row: None, should_stop=lambda: run.session.step == stop_at)
    return figures(run.session.rows())


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but the time."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_it_learns_and_leaves_a_model_that_answers(text: Path, group: Group) -> None:
    run = start(text, group, steps="40", schedule='"cosine"', decay_steps="0")
    rows = go(run, stop_at=40)
    assert rows[-1]["nll"] < 0.6 * rows[0]["nll"]
    assert rows[-1]["kl"] < 0.6 * rows[0]["kl"]
    assert rows[-1]["held_out_dense"] < 0.7 * rows[3]["held_out_dense"]
    assert rows[-1]["held_out_sparse"] != rows[-1]["held_out_dense"]
    assert [("held_out_sparse" in row) for row in rows] == [row["step"] % 4 == 0 for row in rows]
    llm = LLM(run.write_model(), EngineConfig(dtype="float32"))
    (answer,) = llm.generate(["def function_1(argument):\n"], SamplingParams(max_tokens=8, temperature=0.0))
    assert len(answer.token_ids) == 8
    run.draw()
    assert (text.parent / "run" / "training.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_is_the_uninterrupted_one(text: Path, group: Group) -> None:
    whole = go(start(text, group, "whole"))
    stopped = start(text, group, "parts")
    assert len(go(stopped, stop_at=5)) == 5
    assert stopped.session.step == 5
    again = start(text, group, "parts", resume=True)
    assert again.session.step == 5
    assert go(again) == whole
    for name, tensor in again.learner.parameters().items():
        assert tensor.isfinite().all(), name


def test_steps_in_several_passes_are_those_of_one(text: Path, group: Group) -> None:
    one, four = go(start(text, group, "one", windows_at_once="4")), go(start(text, group, "four"))
    for a, b in zip(one, four, strict=True):
        assert a["nll"] == pytest.approx(b["nll"], rel=1e-4)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)


@pytest.mark.parametrize("how", ["sparse = true", 'index_branch = "new"'])
def test_a_model_goes_on_from_its_folder(how: str, text: Path, group: Group) -> None:
    """Of the Llama family: by its own keys, and with a branch that is begun, kept beside it and found again."""
    folder = write_tiny_model(text.parent / "llama")

    def run_from(checkpoint: Path, how: str, out: str) -> LanguageRun:
        path = text.parent / "llama.toml"
        sections = CONFIG.replace("TEXT", str(text)).split("[data]")[1]
        path.write_text(f'[model]\ncheckpoint = "{checkpoint}"\n{how}\n[data]{sections}')
        return LanguageRun(RunConfig.read(path), text.parent / out, group)

    run = run_from(folder, f"{how}\nblocks = {{ index_block_size = 16, index_topk_blocks = 2 }}", "run")
    before = {name: tensor.clone() for name, tensor in run.learner.parameters().items()}
    rows = go(run)
    assert rows[-1]["nll"] < rows[0]["nll"]
    assert ("kl" in rows[0]) == ("new" in how)
    model = run.write_model()
    assert json.loads((model / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    again = run_from(model, "" if "new" in how else how, "more")
    assert again.model == run.model
    after = again.learner.parameters()
    for name, tensor in run.learner.parameters().items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-2, atol=1e-3)
        assert not tensor.equal(before[name]), name
    llm = LLM(model, EngineConfig(dtype="float32"))
    assert llm.engine.runner.decoder.config == run.model
    assert llm.generate(["def "], SamplingParams(max_tokens=4))[0].token_ids


def test_bf16_learns_like_fp32(text: Path, group: Group) -> None:
    exact, rounded = go(start(text, group, "exact")), go(start(text, group, "rounded", dtype='"bfloat16"'))
    assert rounded[-1]["nll"] == pytest.approx(exact[-1]["nll"], rel=0.05)
    assert rounded != exact


def test_a_loss_that_is_no_number_ends_the_run(text: Path, group: Group) -> None:
    run = start(text, group, lr="1e30")
    with pytest.raises(TrainingError, match=r"is not a number any more, in windows \d+ to \d+ of the data"):
        go(run)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr = 1e-2": "learning_rate = 1e-2\nlr = 1"}, "training.learning_rate: is unknown"),
        ({"window = 80": "windw = 80"}, "data.windw: is unknown in .*; did you mean 'window'?"),
        ({"[alignment]": "[aligment]"}, "aligment: is unknown in .*; did you mean 'alignment'?"),
        ({"window = 80": ""}, "data.window: is missing"),
        ({"steps = 8": 'steps = "8"'}, "training.steps: input should be a valid integer in .*, got '8'"),
        ({"steps = 8": "steps = 4"}, "training.warmup_steps: and decay_steps are more than all 4 steps"),
        ({"lr = 1e-2": "lr = nan"}, "training.lr: "),
        ({"lr = 1e-2": "lr = -1.0"}, "training.lr: must be positive and finite, got -1.0"),
        ({'"wsd"': '"linear"'}, "training.schedule: input should be 'cosine' or 'wsd' in .*, got 'linear'"),
        ({'"wsd"': '"cosine"'}, "training.decay_steps: is for schedule 'wsd', and it is 'cosine'"),
        ({'preset = "tiny"': ""}, "model: needs one of preset .* got none"),
        ({'preset = "tiny"': 'preset = "tinny"'}, "model.preset: "),
        ({"hidden_size = 32": "hiden_size = 32"}, "unknown key 'hiden_size'; did you mean 'hidden_size'?"),
        ({"held_out = 0.2": "held_out = 0.0"}, "data.held_out: is 0, so there is nothing to evaluate on"),
        ({"window = 80": "window = 2048"}, "data.window: 2048 is more than the model's max_position_embeddings 1024"),
        ({"windows = 4": "windows = 4000"}, "evaluation.windows: 4000 are more than the"),
        ({"[data]": "[data"}, "config: .* can't be read as TOML"),
        ({"/text": "/nothing"}, "data: "),
    ],
)
def test_a_bad_configuration_is_one_sentence(changed: dict[str, str], message: str, text: Path, group: Group) -> None:
    path = write_config(text, changed)
    with pytest.raises(OpenM3Error, match=message):
        LanguageRun(RunConfig.read(path), text.parent / "run", group)


def test_a_run_goes_on_only_as_it_began(text: Path, group: Group) -> None:
    go(start(text, group), stop_at=2)
    with pytest.raises(InputError, match=r"training.lr: was 0.01 when this run began and is 0.02 now"):
        start(text, group, resume=True, lr="2e-2")
    with pytest.raises(InputError, match="out: .* has a run already"):
        start(text, group)
    assert start(text, group, resume=True, save_every="2").session.step == 2


def test_the_learning_rate_rises_and_falls(text: Path) -> None:
    wsd = RunConfig.read(write_config(text)).training
    assert [share_of_peak(step, wsd) for step in range(8)] == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.7, 0.4])
    changed = {'"wsd"': '"cosine"', "decay_steps = 3": "final_lr = 0.0"}
    cosine = RunConfig.read(write_config(text, changed)).training
    shares = [share_of_peak(step, cosine) for step in range(9)]
    assert shares[1:3] == [1, 1]
    assert shares[5] == pytest.approx(0.5)
    assert shares[2:] == sorted(shares[2:], reverse=True)
    assert shares[8] == pytest.approx(0, abs=1e-12)


def command(config: Path, out: Path, *options: str, processes: int = 1) -> subprocess.Popen[str]:
    args = ["train", "run", str(config), "--out", str(out), *options]
    several = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", "openm3"]
    started = [*OPENM3, *args] if processes == 1 else [sys.executable, *several, *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def rows_of(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []
    return figures([json.loads(line) for line in lines])


def test_the_command_survives_a_kill_and_stops_when_asked(text: Path, group: Group) -> None:
    """Killed with -9 behind a checkpoint, resumed, stopped by Ctrl-C, resumed: the curve of one run."""
    whole = go(start(text, group, "whole", steps="30"), stop_at=30)
    config, out = write_config(text, {"steps = 8": "steps = 30"}), text.parent / "killed"
    for number, at in ((signal.SIGKILL, 4), (signal.SIGINT, 8)):
        process = command(config, out, *(["--resume"] if at > 4 else []))
        deadline = time.monotonic() + 60
        while len(rows_of(out)) < at and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130), stderr
        assert len(rows_of(out)) < 30
    assert "stopping after this step" in stderr
    assert Path(stdout.strip()) == out / "model"
    assert "going on from step " in stderr
    assert go(start(text, group, "killed", steps="30", resume=True), stop_at=30) == whole


def test_two_processes_learn_as_one(text: Path, group: Group) -> None:
    """The same global batch in two halves, and a run that one process began and two go on with."""
    whole = go(start(text, group, "whole"))
    go(start(text, group, "both"), stop_at=3)
    out, config = text.parent / "both", write_config(text)
    process = command(config, out, "--resume", processes=2)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stdout.strip() == str(out / "model")
    for one, two in zip(whole, rows_of(out), strict=True):
        for name in ("nll", "kl", "gradient_norm", "index_gradient_norm", "held_out_dense", "held_out_sparse"):
            if name in one:
                assert two[name] == pytest.approx(one[name], rel=1e-4), (one["step"], name)
        assert two["expert_load"] == pytest.approx(one["expert_load"], rel=0.02)
    assert (out / "model" / "config.json").exists()
