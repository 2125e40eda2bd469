"""`openm3 train report` from the command line to the page, on a tiny model with a branch of random numbers."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from helpers.branches import write_branch
from openm3.cli.main import openm3
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.errors import InputError
from openm3.train import pictures
from openm3.train.corpus import Corpus
from openm3.train.data import Windows, document_end
from openm3.train.reader import Reader
from openm3.train.report import ReportConfig

LENGTHS = (128, 256, 512)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "code").mkdir()
    (folder / "code" / "a.py").write_text("".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(40)))
    (folder / "prose.jsonl").write_text(
        "".join(json.dumps({"text": f"Chapter {i}.\nThe sea is calm tonight, {i}.\n"}) + "\n" for i in range(60))
    )
    return folder


def report(*args: str | Path) -> Result:
    quick = ("--dtype", "float32", "--device", "cpu", "--lengths", "128,256,512", "--budgets", "2,6")
    return CliRunner().invoke(openm3, ["train", "report", *map(str, args), *quick])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("report")
    branch = write_branch(tiny_model, folder / "branch")
    done = report(
        tiny_model, "--data", data / "code", "--data", data / "prose.jsonl", "--out", folder / "out",
        "--index-branch", branch, "--texts", "1", "--keys", "1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    names = ["report.md", "report.json", "report.png"]
    assert done.stdout.splitlines() == [str(folder / "out" / name) for name in names]
    return folder / "out"


def test_every_way_to_attend_is_measured_on_every_data(written: Path) -> None:
    found = json.loads((written / "report.json").read_text())
    names = ["dense", "branch, 2 blocks", "branch, 6 blocks", "own keys, 2 blocks", "own keys, 6 blocks"]
    assert list(found["methods"]) == names and list(found["data"]) == ["code", "prose.jsonl"]
    for name, figures in found["methods"].items():
        assert list(figures["nll"]["code"]) == ["128", "256", "512"]
        assert list(figures["keys"]["512"]) == ["0.0", "0.25", "0.5", "0.75", "1.0"]
        assert min(figures["speed"].values()) > 0
        assert len(figures["recall"]) == (0 if name == "dense" else 2)
    methods = {name: figures["recall"] for name, figures in found["methods"].items() if name != "dense"}
    kept = {name: statistics.fmean(layer["mass_kept"] for layer in layers) for name, layers in methods.items()}
    assert kept["own keys, 6 blocks"] > kept["branch, 6 blocks"] > kept["branch, 2 blocks"], "a random branch is bad"
    assert found["branch"]["index"]["sparse"]["index_block_size"] == 16 and found["branch"]["made"] == {"seed": 0}


def test_the_nll_of_a_length_is_that_of_reading_so_much(written: Path, tiny_model: Path, data: Path) -> None:
    """Computed again through the engine's own log probabilities, of a prompt of that length."""
    found = json.loads((written / "report.json").read_text())["methods"]["dense"]["nll"]["code"]
    llm = LLM(tiny_model, EngineConfig(attention="dense", dtype="float32", device="cpu"))
    window = next(Windows(Corpus.read([data / "code"]), llm.encode, 512, end_id=document_end(llm.tokenizer)))
    for length in LENGTHS:
        ids = window.ids_T[:length].tolist()
        logits = Reader(llm).logits(ids, range(length - 1))
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        places = [place for place in range(64, 511, 4) if length // 2 <= place < length - 1]
        assert found[str(length)] == pytest.approx(float(nll[places].mean()), rel=1e-4)


def test_the_page_shows_the_figures(written: Path) -> None:
    page, found = (written / "report.md").read_text(), json.loads((written / "report.json").read_text())
    dense, own = (found["methods"][name]["nll"]["code"]["512"] for name in ("dense", "own keys, 2 blocks"))
    assert f"{own:.3f} ({own / dense:.3f})" in page and f"{dense:.3f} (1.000)" in page
    for part in ("## NLL of prose.jsonl", "## Recall", "| layer |", "## Keys found", "## Speed", "(report.png)"):
        assert part in page
    assert (written / "report.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_are_no_pictures_and_it_says_so(
    tmp_path: Path, tiny_model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    few = ("--texts", "1", "--keys", "0", "--no-speed")
    done = report(tiny_model, "--data", data / "code", "--out", tmp_path, *few)
    assert done.exit_code == 0 and "matplotlib is not installed" in done.stderr
    page = (tmp_path / "report.md").read_text()
    assert "png" not in page and "Speed" not in page and "Keys" not in page
    assert list(json.loads((tmp_path / "report.json").read_text())["methods"])[1] == "own keys, 2 blocks"
    assert not (tmp_path / "report.png").exists()


def test_what_was_held_out_can_be_read_alone(tmp_path: Path, tiny_model: Path, data: Path) -> None:
    few = ("--texts", "1", "--keys", "0", "--no-speed", "--held-out", "0.4")
    done = report(tiny_model, "--data", data / "prose.jsonl", "--out", tmp_path, *few)
    assert done.exit_code == 0, done.output
    _, held_out = Corpus.read([data / "prose.jsonl"]).split(0.4)
    assert json.loads((tmp_path / "report.json").read_text())["data"]["prose.jsonl"]["digest"] == held_out.digest


def test_wrong_options_are_told_by_their_names(tmp_path: Path, tiny_model: Path, data: Path) -> None:
    with pytest.raises(InputError, match=r"^lengths: must be one number or several, the smallest first, got 512, 128"):
        ReportConfig(lengths=(512, 128))
    with pytest.raises(InputError, match=r"^lengths: must be at least 128, got 64"):
        ReportConfig(lengths=(64,))
    with pytest.raises(InputError, match=r"^num_texts: must be at least 1, got 0"):
        ReportConfig(lengths=(128,), num_texts=0)
    (tmp_path / "short.txt").write_text("too short")
    done = report(tiny_model, "--data", tmp_path / "short.txt", "--out", tmp_path / "out")
    assert isinstance(done.exception, InputError) and "less than one window of 512" in str(done.exception)
    (tmp_path / "file").write_text("")
    few = ("--texts", "1", "--keys", "0", "--no-speed")
    done = report(tiny_model, "--data", data / "code", "--out", tmp_path / "file", *few)
    assert "file: can't be written" in str(done.exception)
    done = CliRunner().invoke(openm3, ["train", "report", "--data", "x", "--out", "y", "--budgets", "8;16"])
    assert str(done.exception).startswith("--budgets: '8;16' is no list of numbers")
    done = report(tiny_model, "--data", data / "code", "--out", tmp_path, "--texts", "0")
    assert str(done.exception) == "--texts: must be at least 1, got 0"
