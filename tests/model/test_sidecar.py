"""Sidecars: found where they belong, and nothing else is taken for one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file

from helpers.branches import write_branch
from helpers.tiny import write_tiny_model
from helpers.tiny_m3 import write_tiny_m3
from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.errors import InputError, ModelError
from openm3.model.aligned import AlignedCheckpoint
from openm3.model.branch import open_model, packaged
from openm3.model.identity import identity_of
from openm3.model.sidecar import ABOUT, TENSORS, Sidecar, write_sidecar
from openm3.model.weights import open_checkpoint

NAME = "model.layers.0.self_attn.index_q_proj.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return write_branch(model, tmp_path / "branch")


def branch_of(model: Path, **changes: Any) -> Sidecar | None:
    checkpoint = open_model(model, EngineConfig(**changes))
    return checkpoint.sidecar if isinstance(checkpoint, AlignedCheckpoint) else None


def test_what_is_written_is_read(model: Path, folder: Path) -> None:
    sidecar = Sidecar.read(folder)
    assert sidecar.model_identity == identity_of(open_checkpoint(model))
    assert sidecar.made == {"seed": 0}
    assert len(sidecar.stored) == 2 * 4
    again = folder.with_name("again")
    tensors = load_file(folder / TENSORS)
    write_sidecar(again, sidecar.index, tensors, sidecar.model_identity, sidecar.made)
    assert (again / TENSORS).read_bytes() == (folder / TENSORS).read_bytes()
    assert (again / ABOUT).read_bytes() == (folder / ABOUT).read_bytes()
    assert Sidecar.read(again).identity == sidecar.identity
    assert sorted(path.name for path in again.iterdir()) == [ABOUT, TENSORS]
    tensors[NAME][0, 0] += 1
    write_sidecar(again, sidecar.index, tensors, sidecar.model_identity, sidecar.made)
    assert Sidecar.read(again).identity != sidecar.identity


def test_a_folder_that_cannot_be_written(model: Path, folder: Path) -> None:
    sidecar = Sidecar.read(folder)
    with pytest.raises(InputError, match=r"folder: .*config\.json can't be written \(.*\); give another one"):
        write_sidecar(model / "config.json", sidecar.index, {}, sidecar.model_identity, {})


def test_auto_takes_the_branch_beside_the_weights(model: Path, folder: Path) -> None:
    """And it changes nothing of which model it is, so that it may lie among its files."""
    before = identity_of(open_checkpoint(model))
    assert branch_of(model) is None
    shutil.copytree(folder, model, dirs_exist_ok=True)
    found = branch_of(model)
    assert found is not None
    assert found.path == model
    assert identity_of(open_model(model, EngineConfig())) == identity_of(open_checkpoint(model)) == before
    for changes in ({"index_branch": "none"}, {"attention": "dense"}):
        assert branch_of(model, **changes) is None


def test_the_engine_reads_what_the_branch_brings_or_what_is_asked_for(model: Path, folder: Path) -> None:
    llm = LLM(model, EngineConfig(index_branch=str(folder)))
    assert llm.branch is not None
    assert (llm.config.attention, llm.config.sparse.index_block_size, llm.config.topk) == ("sparse", 16, 3)
    for asked in (SparseConfig(index_block_size=32, index_topk_blocks=5), SparseConfig()):  # the default's, too
        llm = LLM(model, EngineConfig(index_branch=str(folder), sparse=asked))
        assert llm.config.sparse == asked
        assert llm.model_config.index is not None and llm.model_config.index.sparse == asked
    plain = LLM(model)
    assert (plain.branch, plain.config.attention) == (None, "dense")


def test_a_quantised_file_keeps_its_own_layout(default_model_path: Path, tmp_path: Path) -> None:
    folder = write_branch(default_model_path, tmp_path / "branch", index_head_dim=64)
    sparse = SparseConfig(index_topk_blocks=2)
    ids = list(range(1000, 1600))
    answers = [
        LLM(default_model_path, EngineConfig(index_branch=branch, attention="sparse", sparse=sparse, max_context=1024))
        for branch in (str(folder), "none")
    ]
    ours, plain = answers
    assert ours.engine.runner.weights == plain.engine.runner.weights
    params = SamplingParams(max_tokens=1, logprobs=1)
    logprobs = [llm.generate([ids], params)[0].logprobs[0].logprob for llm in answers]
    assert logprobs[0] != logprobs[1]
    moved = tmp_path / "models"
    moved.mkdir()
    (moved / "some.gguf").symlink_to(default_model_path)
    shutil.copytree(folder, moved / "some.msa")
    found = branch_of(moved / "some.gguf")
    assert found is not None and found.path == moved / "some.msa"


def test_another_models_branch_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(
        ModelError, match=r"branch: this index branch was made for the model [0-9a-f]{16}, and other is"
    ):
        branch_of(other, index_branch=str(folder))
    wider = write_tiny_model(tmp_path / "wider", hidden_size=128)
    with pytest.raises(ModelError, match=r"index_k_proj\.weight has shape \[16, 96\], expected \[16, 128\]"):
        branch_of(wider, index_branch=str(folder))
    deeper = write_tiny_model(tmp_path / "deeper", num_hidden_layers=3)
    with pytest.raises(
        ModelError, match=r"msa\.json: config: sparse_attention_freq must have a 0 or 1 for each of the 3"
    ):
        branch_of(deeper, index_branch=str(folder))


def test_where_no_branch_belongs(folder: Path, model: Path, tmp_path: Path) -> None:
    m3 = write_tiny_m3(tmp_path / "m3")
    for option in (str(folder), "none"):
        with pytest.raises(InputError, match="index_branch: .*has an index branch of its own"):
            branch_of(m3, index_branch=option)
    with pytest.raises(InputError, match="index_branch: chooses blocks, and attention 'dense' reads all"):
        branch_of(model, index_branch=str(folder), attention="dense")
    with pytest.raises(ModelError, match=r"nowhere/msa\.json: can't be read as JSON \(.*No such file"):
        branch_of(model, index_branch=str(tmp_path / "nowhere"))
    weights = load_file(model / "model.safetensors")
    save_file({**weights, NAME: load_file(folder / TENSORS)[NAME]}, model / "model.safetensors")
    write_branch(model, folder)
    with pytest.raises(ModelError, match="of an index branch itself; take none beside it"):
        branch_of(model, index_branch=str(folder))


def edit(key: str, value: Any, *, of: str | None = None) -> Callable[[Path], None]:
    """Sets a key of msa.json, or takes it out where the value is None; `of` names the object that it is in."""

    def change(folder: Path) -> None:
        about = json.loads((folder / ABOUT).read_text())
        part = about
        for name in of.split(".") if of else ():
            part = part[name]
        part.pop(key, None)
        if value is not None:
            part[key] = value
        (folder / ABOUT).write_text(json.dumps(about))

    return change


def tensors(**changed: torch.Tensor | None) -> Callable[[Path], None]:
    """Replaces, adds or takes out tensors, with the right checksum."""

    def change(folder: Path) -> None:
        kept = {**load_file(folder / TENSORS), **{name.replace("__", "."): t for name, t in changed.items()}}
        save_file({name: t for name, t in kept.items() if t is not None}, folder / TENSORS)
        edit("tensors_xxh3", xxhash.xxh3_64((folder / TENSORS).read_bytes()).hexdigest())(folder)

    return change


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size]) and None


def flip(folder: Path) -> None:
    data = bytearray((folder / TENSORS).read_bytes())
    data[-1] ^= 1
    (folder / TENSORS).write_bytes(data)


QUERY, KEY_NORM = NAME.replace(".", "__"), "model__layers__1__self_attn__index_k_norm__weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut(ABOUT, 100), r"msa\.json: can't be read as JSON"),
        (cut(ABOUT, 0), r"msa\.json: can't be read as JSON"),
        (cut(TENSORS, 2000), r"msa_index\.safetensors: not a whole safetensors file"),
        (cut(TENSORS, 5), r"msa_index\.safetensors: not a whole safetensors file"),
        (lambda folder: (folder / TENSORS).unlink(), r"msa_index\.safetensors: not a whole safetensors file \(No such"),
        (lambda folder: (folder / ABOUT).write_text("[" * 100_000) and None, r"msa\.json: can't be read as JSON"),
        (lambda folder: (folder / ABOUT).write_text("[]") and None, r"msa\.json: must hold a JSON object"),
        (lambda folder: (folder / ABOUT).write_text(" " * (5 << 20)) and None, "more than 4,194,304 bytes"),
        (flip, r"msa_index\.safetensors: was changed, or belongs to another msa\.json"),
        (edit("format", 2), "format 2 is not understood; this version reads 1"),
        (edit("modle_identity", "0"), "unknown key 'modle_identity'; did you mean 'model_identity'"),
        (edit("made", None), "key 'made' is missing"),
        (edit("made", "by hand"), "made must be a JSON object"),
        (edit("model_identity", "../../x"), r"model_identity must be 16 hex digits, got '\.\./\.\./x'"),
        (edit("index", []), "index: must be a JSON object"),
        (edit("index_n_haeds", 2, of="index"), "index: unknown key 'index_n_haeds'; did you mean 'index_n_heads'"),
        (edit("index_n_heads", "2", of="index"), "index_n_heads must be a number or flag of type int, got '2'"),
        (edit("index_n_heads", 3, of="index"), "index_n_heads 3 must be a multiple of num_key_value_heads 2"),
        (edit("index_head_dim", 8, of="index"), "index_head_dim must be 16, 32"),
        (edit("index_rotary_dim", "x", of="index"), "index_rotary_dim must be a whole number or null"),
        (edit("sparse_attention_freq", [1, "1"], of="index"), "sparse_attention_freq must be a list of whole numbers"),
        (edit("index_topk_blocks", 10**30, of="index.sparse"), "index_topk_blocks must be at most 65,536"),
        (edit("index_block_size", 5, of="index.sparse"), "sparse: index_block_size: must be from 16 to 256, got 5"),
        (tensors(**{KEY_NORM: None}), r"tensor 'model\.layers\.1\.self_attn\.index_k_norm\.weight' is missing"),
        (tensors(model__norm__weight=torch.ones(96)), r"unexpected tensor 'model\.norm\.weight'"),
        (tensors(**{QUERY: torch.ones(32, 95)}), r"index_q_proj\.weight has shape \[32, 95\], expected \[32, 96\]"),
        (tensors(**{QUERY: torch.ones(32, 96).int()}), r"index_q_proj\.weight has dtype I32, expected BF16, F16, F32"),
    ],
)
def test_broken_and_hostile_files_are_refused(
    change: Callable[[Path], None], message: str, model: Path, folder: Path
) -> None:
    change(folder)
    with pytest.raises(ModelError, match=message) as raised:
        branch_of(model, index_branch=str(folder))
    assert str(folder) in str(raised.value)


def test_nan_is_told(model: Path, folder: Path) -> None:
    tensors(**{QUERY: torch.full((32, 96), torch.nan)})(folder)
    with pytest.warns(UserWarning, match=rf"tensor {NAME} holds NaN"):
        LLM(model, EngineConfig(index_branch=str(folder)))


def test_an_identity_survives_fields_that_come_later(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    identity = identity_of(checkpoint)
    checkpoint.config = replace(checkpoint.config, rms_norm_eps=1e-6)
    assert identity_of(checkpoint) != identity


def test_the_packaged_branch_is_the_default_models(default_model_path: Path) -> None:
    """Where there is one; and no other model gets it."""
    if not (packaged() / ABOUT).is_file():
        assert branch_of(default_model_path) is None
        return
    found = branch_of(default_model_path)
    assert found is not None and found.path == packaged()
    assert sum(path.stat().st_size for path in packaged().iterdir()) <= 10_000_000
