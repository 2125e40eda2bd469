"""Aligning: it begins near the model's own products, learns, goes on exactly, and writes what loaders take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.tiny import write_tiny_model
from openm3.config import SparseConfig
from openm3.errors import InputError
from openm3.model.sidecar import Sidecar
from openm3.model.weights import open_checkpoint
from openm3.train.align import AlignConfig, Aligner
from openm3.train.data import Window

SPARSE = SparseConfig(index_block_size=32, index_topk_blocks=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("align") / "model")


def config(**changes: object) -> AlignConfig:
    options: dict[str, object] = {"num_steps": 30, "window": 256, "rows": 64, "sparse": SPARSE, "device": "cpu"}
    return AlignConfig(**{**options, **changes})  # type: ignore[arg-type]


def windows(count: int, length: int = 256) -> list[Window]:
    drawn = np.random.default_rng(0)
    return [Window(ids_T=drawn.integers(0, 256, length), lengths=(length,), documents=(0,)) for _ in range(count)]


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"index_n_heads": 6, "index_n_key_heads": 2, "use_index_norm": True, "target": "mean"},
        {"index_rotary_dim": 0, "sparse_steps": 25, "own_key_layers": (1,)},
    ],
)
def test_it_learns_what_the_model_reads(model: Path, form: dict[str, object]) -> None:
    aligner = Aligner(model, config(**form))
    figures = [aligner.step([window]) for window in windows(30)]
    last = figures[-1]
    assert len(last["kl_by_layer"]) == len(last["recall_by_layer"]) == len(aligner.branches)
    if not aligner.config.sparse_steps:  # else first and last are of different losses
        assert last["kl"] < 0.95 * figures[0]["kl"]
    assert last["recall"] > 0.5
    assert last["lr"] < figures[12]["lr"]


def test_with_all_elements_it_begins_as_the_model_itself(model: Path) -> None:
    """An index head for each query head, a key for each group, and all elements rotated: own keys."""
    form = {"index_n_heads": 6, "index_n_key_heads": 2, "index_rotary_dim": 16}
    aligner = Aligner(model, config(**form, lr=1e-12, dtype="float32"))
    aligner.step(windows(1))
    checkpoint = open_checkpoint(model)
    for layer, branch in aligner.branches.items():
        q, k = (checkpoint.read(f"layers.{layer}.self_attn.{part}_proj.weight") for part in ("q", "k"))
        index_q, index_k = branch.index_q_proj.weight, branch.index_k_proj.weight
        for head in range(6):  # their products are the same, however their elements are scaled
            own, index = slice(head * 16, head * 16 + 16), slice(head // 3 * 16, head // 3 * 16 + 16)
            torch.testing.assert_close(index_q[own].T @ index_k[index], q[own].T @ k[index], atol=1e-4, rtol=1e-3)


def test_it_goes_on_exactly(model: Path) -> None:
    text = windows(6)
    whole, first, second = (Aligner(model, config()) for _ in range(3))
    figures = [whole.step([window]) for window in text]
    for window in text[:3]:
        first.step([window])
    second.load_state_dict(first.state_dict())
    assert [second.step([window]) for window in text[3:]] == figures[3:]
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name])


def test_two_windows_at_once_are_the_mean_of_their_gradients(model: Path) -> None:
    one, two = windows(2)
    aligner = Aligner(model, config(lr=1e-9))
    figures = aligner.step([one, two])
    again = Aligner(model, config(lr=1e-9))
    apart = [again.step([one])["kl"], again.step([two])["kl"]]
    assert figures["kl"] == pytest.approx(sum(apart) / 2, rel=1e-4)


def test_loaders_take_what_it_writes(model: Path, tmp_path: Path) -> None:
    aligner = Aligner(model, config(own_key_layers=(0,)))
    aligner.step(windows(1))
    aligner.write(tmp_path / "branch", {"data": "none"})
    sidecar = Sidecar.read(tmp_path / "branch")
    assert sidecar.check(open_checkpoint(model).config).index == aligner.index
    assert sidecar.made["steps"] == 1
    assert sidecar.made["options"]["own_key_layers"] == [0]


@pytest.mark.parametrize(
    "field, options",
    [
        ("num_steps", {"num_steps": 0}),
        ("lr", {"lr": float("nan")}),
        ("window", {"window": 100}),
        ("window", {"window": 96}),
        ("target", {"target": "sum"}),
        ("sparse_steps", {"sparse_steps": -1}),
    ],
)
def test_options_that_make_no_sense_are_named(field: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError) as error:
        config(**options)
    assert error.value.field == field


@pytest.mark.parametrize(
    "field, options",
    [
        ("own_key_layers", {"own_key_layers": (2,)}),
        ("own_key_layers", {"own_key_layers": (0, 1)}),
        ("dense_layers", {"own_key_layers": (0,), "dense_layers": (0,)}),
        ("window", {"window": 1024}),
    ],
)
def test_options_that_the_model_has_no_room_for_are_named(model: Path, field: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError) as error:
        Aligner(model, config(**options))
    assert error.value.field == field


def test_a_window_of_another_length_is_refused(model: Path) -> None:
    with pytest.raises(InputError, match="expected 256"):
        Aligner(model, config()).step(windows(1, length=128))
