"""`openm3 train align` as users run it, on a tiny model: it learns, survives everything, and refuses by name."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from helpers.command import OPENM3
from openm3.cli.main import openm3
from openm3.cli.train_align import align
from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.errors import InputError, TrainingError
from openm3.model.sidecar import TENSORS, Sidecar
from openm3.train.align import AlignConfig

STEPS, FIGURES = 24, ("kl", "recall")
OPTIONS = (
    "--steps", STEPS, "--window", 512, "--rows", 128, "--block-size", 16, "--blocks", 4, "--index-norm", "--target",
    "mean", "--index-rotary-size", 16, "--index-key-heads", 2, "--index-heads", 6, "--sparse-steps", 4,
    "--dtype", "float32", "--device", "cpu", "--save-every", 5, "--threads", 1, "--accumulate", 2,
)  # fmt: skip


def arguments(model: Path, data: Path, out: Path, *more: object) -> list[str]:
    return ["train", "align", *map(str, (model, "--data", data, "--out", out, *OPTIONS, *more))]


def run(*given: Any) -> Result:
    return CliRunner().invoke(openm3, arguments(*given))


def start(*given: Any, **options: Any) -> subprocess.Popen[str]:
    """The same in a process of its own."""
    return subprocess.Popen([*OPENM3, *arguments(*given)], stderr=subprocess.PIPE, text=True, **options)


def rows(out: Path) -> list[dict[str, Any]]:
    """The metrics without the time that they took."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def wait_for_rows(process: subprocess.Popen[str], out: Path, count: int) -> None:
    while not (out / "metrics.jsonl").exists() or len((out / "metrics.jsonl").read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "text"
    shutil.copytree(Path(__file__).parents[2] / "src" / "openm3" / "text", folder, ignore=shutil.ignore_patterns("__*"))
    return folder


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, data: Path) -> Path:
    """A run that nobody interrupts."""
    out = tmp_path_factory.mktemp("aligned") / "branch"
    done = run(tiny_model, data, out)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}\n" and "24 steps, 24,576 tokens" in done.stderr and "1 held out" in done.stderr
    return out


def test_it_learns(aligned: Path) -> None:
    found = rows(aligned)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1)) and found[-1]["tokens"] == STEPS * 2 * 512
    full = found[:-4]  # those steps have a loss over fewer blocks
    first, last = (
        {name: statistics.fmean(row[name] for row in some) for name in ("kl", "recall")}
        for some in (full[:4], full[-4:])
    )
    assert last["kl"] < 0.95 * first["kl"] and last["recall"] > first["recall"] + 0.01
    assert len(found[0]["kl_by_layer"]) == len(found[0]["recall_by_layer"]) == 2
    assert found[-1]["lr"] < 0.1 * max(row["lr"] for row in found)
    assert (aligned / "training.png").read_bytes().startswith(b"\x89PNG")


def test_the_branch_says_what_it_was_made_from_and_is_what_the_engine_takes(aligned: Path, tiny_model: Path) -> None:
    sidecar = Sidecar.read(aligned)
    llm = LLM(tiny_model, EngineConfig(index_branch=str(aligned), dtype="float32", device="cpu"))
    assert llm.branch is not None and llm.branch.identity == sidecar.identity
    assert sidecar.index.sparse == SparseConfig(index_block_size=16, index_topk_blocks=4)
    made = sidecar.made
    assert made["steps"] == STEPS and made["tokens"] == STEPS * 2 * 512 and made["options"]["seed"] == 0
    assert made["data"]["held_out"] == 0.05 and len(made["data"]["digest"]) == 16
    assert made["figures"]["recall"] > 0.5 and "openm3" in made["command"]


def test_its_report_reads_what_it_held_out_and_nothing_else(
    aligned: Path, tmp_path: Path, tiny_model: Path, data: Path
) -> None:
    quick = ("--lengths", "128,256", "--budgets", "2,4", "--texts", "1", "--keys", "0", "--no-speed", "--device", "cpu")
    given = ["train", "report", str(tiny_model), "--index-branch", str(aligned), "--data", str(data), *quick]
    done = CliRunner().invoke(openm3, [*given, "--held-out", "0.05", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["data"]["text"]["digest"] == found["branch"]["made"]["data"]["held_out_digest"]
    done = CliRunner().invoke(openm3, [*given, "--held-out", "0.3", "--out", str(tmp_path)])
    assert str(done.exception).startswith("--held-out: these are not the texts that training held out, which were 0.05")


def test_the_same_command_gives_the_same_branch(aligned: Path, tmp_path: Path, tiny_model: Path, data: Path) -> None:
    run(tiny_model, data, tmp_path / "again")
    assert rows(tmp_path / "again") == rows(aligned)
    assert (tmp_path / "again" / TENSORS).read_bytes() == (aligned / TENSORS).read_bytes()


def test_a_killed_run_goes_on_to_the_same_branch(aligned: Path, tmp_path: Path, tiny_model: Path, data: Path) -> None:
    out = tmp_path / "branch"
    process = start(tiny_model, data, out)
    wait_for_rows(process, out, 8)
    process.kill()
    process.communicate()
    assert run(tiny_model, data, out).exit_code != 0, "what is there is not overwritten"
    done = run(tiny_model, data, out, "--resume")
    assert done.exit_code == 0, done.output
    assert rows(out) == rows(aligned)
    assert (out / TENSORS).read_bytes() == (aligned / TENSORS).read_bytes()


def test_ctrl_c_saves_and_says_how_to_go_on(aligned: Path, tmp_path: Path, tiny_model: Path, data: Path) -> None:
    out = tmp_path / "branch"
    process = start(tiny_model, data, out)
    wait_for_rows(process, out, 3)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130 and "stopping after this step" in told
    done = len(rows(out))
    assert f"stopped after step {done} of {STEPS}; go on with: openm3 train align" in told
    assert told.rstrip().endswith("--resume")
    assert run(tiny_model, data, out, "--resume").exit_code == 0
    assert rows(out) == rows(aligned)


def test_a_full_disk_is_told_and_loses_nothing(aligned: Path, tmp_path: Path, tiny_model: Path, data: Path) -> None:
    def limit() -> None:  # no file may grow past this, as on a disk that is full
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    out = tmp_path / "branch"
    process = start(tiny_model, data, out, preexec_fn=limit)
    _, told = process.communicate()
    assert process.returncode == 1 and "can't be written" in told and "there is no checkpoint yet" in told
    assert "Traceback" not in told
    assert run(tiny_model, data, out, "--resume").exit_code == 0
    assert rows(out) == rows(aligned)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("--lr", 0.02), r"^--lr: was 0.01 when this run began and is 0.02 now"),
        (("--blocks", 5), r"^--blocks: was 4 when this run began and is 5 now"),
        (("--held-out", 0.1), r"^--held-out: was 0.05 when this run began"),
        (("--seed", 1), r"^--seed: was 0 when"),
    ],
)
def test_a_run_goes_on_only_with_its_options(
    aligned: Path, tiny_model: Path, data: Path, changed: tuple[object, ...], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        raise run(tiny_model, data, aligned, "--resume", *changed).exception or AssertionError


def test_a_run_goes_on_only_with_its_data(aligned: Path, tiny_model: Path, data: Path) -> None:
    with pytest.raises(InputError, match=r"^--data: was [0-9a-f]{16} when"):
        raise run(tiny_model, data / "bpe.py", aligned, "--resume", "--data", data / "m3.py").exception


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, tiny_model: Path, data: Path) -> None:
    broken = ("--lr", 1e30, "--warmup-steps", 0, "--no-index-norm")
    with pytest.raises(TrainingError, match=r"^step \d+: kl is not a number any more, in windows .*\.py") as told:
        raise run(tiny_model, data, tmp_path / "out", *broken).exception or AssertionError
    assert "checkpoint" in str(told.value)
    assert not (tmp_path / "out" / TENSORS).exists()


def test_wrong_options_and_data_are_told_by_their_names(tmp_path: Path, tiny_model: Path, data: Path) -> None:
    def told(*given: Any) -> str:
        done = run(tiny_model, *given)
        assert done.exit_code == 1 and isinstance(done.exception, InputError), done.output
        return str(done.exception)

    (tmp_path / "short.txt").write_text("short")
    out = tmp_path / "out"
    assert told(tmp_path / "nothing", out).startswith("--data: ") and told(tmp_path / "short.txt", out).startswith(
        "--held"
    )
    short = told(tmp_path / "short.txt", out, "--held-out", 0)
    assert short == "--data: holds 6 tokens, less than one window of 512"
    assert told(data, out, "--rows", 0) == "--rows: must be at least 1, got 0"
    assert told(data, out, "--window", 500).startswith("--window: must be whole blocks of 16 tokens")
    assert told(data, out, "--accumulate", 0) == "--accumulate: must be at least 1, got 0"
    assert told(data, out, "--tokens", 9000).startswith("--tokens: is given beside --steps")
    assert told(data, out, "--own-key-layers", "1;2").startswith("--own-key-layers: '1;2' is no list of numbers")
    assert told(data, out, "--dense-layers", "7") == "--dense-layers: the model has layers 0 to 1, got [7]"


def test_the_help_shows_the_defaults_that_are() -> None:
    shown = {option.name: option.show_default for option in align.params if isinstance(option, click.Option)}
    defaults = {field.name: field.default for field in fields(AlignConfig) if field.name != "sparse"}
    defaults |= {name: getattr(SparseConfig(), name) for name in ("index_topk_blocks", "index_block_size")}
    assert set(defaults) <= set(shown), "every field has an option"
    words: dict[Any, Callable[[Any], str]] = {bool: lambda on: "yes" if on else "no"}
    for name, default in defaults.items():
        if default not in (None, ()):
            assert shown[name] == words.get(type(default), str)(default), name


def test_tokens_in_place_of_steps(tmp_path: Path, tiny_model: Path, data: Path) -> None:
    given = arguments(tiny_model, data, tmp_path, "--tokens", "3000")
    steps = given.index("--steps")
    done = CliRunner().invoke(openm3, given[:steps] + given[steps + 2 :] + ["--sparse-steps", "1"])
    assert done.exit_code == 0, done.output
    assert len(rows(tmp_path)) == 2, "3000 tokens are two steps of two windows of 512"
    assert os.path.exists(tmp_path / TENSORS)
