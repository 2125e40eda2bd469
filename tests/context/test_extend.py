"""The rules for positions past the trained window, against transformers' and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from openm3.config import EngineConfig, ModelConfig, SparseConfig
from openm3.context.extend import Extension, ntk, yarn
from openm3.errors import InputError

TRAINED = 8192
FREQUENCIES = 1.0 / 100_000.0 ** (torch.arange(0, 64, 2).float() / 64)


def extension(method: str, **changes: object) -> Extension:
    values = {"method": method, "trained": TRAINED, "window": 8 * TRAINED, "block_size": 128, **changes}
    return Extension(**values)  # type: ignore[arg-type]


def theirs(kind: str, factor: float, **parameters: object) -> tuple[torch.Tensor, float]:
    scaling = {"rope_type": kind, "rope_theta": 100_000.0, "factor": factor, **parameters}
    config = LlamaConfig(head_dim=64, max_position_embeddings=TRAINED, rope_parameters=scaling)
    return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=round(factor * TRAINED))


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_yarn_is_that_of_transformers(factor: int) -> None:
    expected, amplitude = theirs("yarn", factor, truncate=False, original_max_position_embeddings=TRAINED)
    torch.testing.assert_close(yarn(FREQUENCIES, factor, TRAINED), expected, rtol=1e-5, atol=0)
    assert extension("yarn", window=factor * TRAINED).amplitude == pytest.approx(amplitude)


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_ntk_is_that_of_transformers_at_the_end_of_the_window(factor: int) -> None:
    exponent = 64 / 62
    expected = 1.0 / (100_000.0 * factor**exponent) ** (torch.arange(0, 64, 2).double() / 64)
    torch.testing.assert_close(ntk(FREQUENCIES, factor), expected.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rule", [ntk, lambda f, factor: yarn(f, factor, TRAINED)])
def test_short_wavelengths_stay_and_the_longest_is_divided(rule) -> None:  # type: ignore[no-untyped-def]
    assert rule(FREQUENCIES, 8.0)[0] == FREQUENCIES[0]
    assert rule(FREQUENCIES, 8.0)[-1] == pytest.approx(float(FREQUENCIES[-1]) / 8, rel=1e-5)
    torch.testing.assert_close(rule(FREQUENCIES, 1.0), FREQUENCIES)


def test_a_window_within_the_trained_one_changes_nothing() -> None:
    for method in ("ntk", "yarn"):
        small = extension(method, window=4096)
        assert small.factor == 1.0
        assert small.amplitude == 1.0
        torch.testing.assert_close(small.frequencies(FREQUENCIES), FREQUENCIES)


def test_far_blocks_stand_just_past_the_near_ones_wherever_they_are() -> None:
    clamped = extension("clamped", near_blocks=4)
    positions = clamped.far_positions(torch.arange(3 * 128))
    assert positions[:128].tolist() == list(range(-(5 * 128 - 1), -(4 * 128 - 1)))
    assert torch.equal(positions[:128], positions[128:256])
    assert torch.equal(positions[:128], positions[256:])
    assert clamped.far_distance == 5 * 128 - 1
    assert torch.equal(clamped.frequencies(FREQUENCIES), FREQUENCIES)


def test_far_blocks_come_on_top_and_the_first_is_one_of_them() -> None:
    selection = extension("clamped", near_blocks=4).selection(SparseConfig(index_topk_blocks=16))
    assert selection.index_topk_blocks == 20
    assert selection.index_local_blocks == 4
    assert selection.index_init_blocks == 1


def model(**changes: object) -> ModelConfig:
    values = {
        "vocab_size": 100, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "rms_norm_eps": 1e-5,
        "rope_theta": 1e4, "max_position_embeddings": TRAINED, "tie_word_embeddings": True, **changes,
    }  # fmt: skip
    return ModelConfig(**values)  # type: ignore[arg-type]


def test_auto_extends_past_the_trained_window_alone() -> None:
    long = {"max_context": 4 * TRAINED}
    assert EngineConfig().for_model(model()).extend == "none"
    assert EngineConfig(max_context=TRAINED).for_model(model()).extend == "none"
    resolved = EngineConfig(**long).for_model(model())  # type: ignore[arg-type]
    assert (resolved.extend, resolved.attention, resolved.near_window) == ("clamped", "sparse", 4096)
    assert resolved.topk == 4096 // 128 + 16
    assert resolved.for_model(model()) == resolved
    resolved = EngineConfig(attention="dense", **long).for_model(model())  # type: ignore[arg-type]
    assert (resolved.extend, resolved.attention, resolved.near_window) == ("yarn", "dense", None)
    resolved = EngineConfig(extend="none", **long).for_model(model())  # type: ignore[arg-type]
    assert (resolved.extend, resolved.attention) == ("none", "dense")


def test_the_near_window_is_whole_blocks_and_leaves_room_for_a_far_one() -> None:
    assert EngineConfig(extend="clamped", near_window=1000).for_model(model()).near_window == 896
    assert EngineConfig(extend="clamped").for_model(model(max_position_embeddings=512)).near_window == 256
    for wrong in (100, TRAINED):
        with pytest.raises(InputError, match=rf"near_window: must be from 128 to 8064 tokens .* got {wrong}"):
            EngineConfig(extend="clamped", near_window=wrong).for_model(model())


def test_what_does_not_fit_together_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="extend: must be 'auto', 'none', 'ntk', 'yarn' or 'clamped', got 'yarm'"):
        EngineConfig(extend="yarm")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="extend: 'clamped' reads chosen blocks; take attention 'sparse'"):
        EngineConfig(extend="clamped", attention="dense").for_model(model())
    with pytest.raises(InputError, match="attention_mass: is not for extend 'clamped'"):
        EngineConfig(extend="clamped", attention="sparse", attention_mass=0.9).for_model(model())
    with pytest.raises(InputError, match="near_window: is for extend 'clamped', and here it is 'yarn'"):
        EngineConfig(extend="yarn", near_window=1024).for_model(model())
    with pytest.raises(InputError, match="near_window: must be at least 1, got 0"):
        EngineConfig(near_window=0)


def test_extension_of_a_resolved_configuration() -> None:
    assert Extension.of(EngineConfig().for_model(model()), model()) is None
    config = EngineConfig(max_context=4 * TRAINED, attention="dense").for_model(model())
    found = Extension.of(config, model())
    assert found is not None
    assert (found.method, found.factor) == ("yarn", 4.0)
    assert found.amplitude == pytest.approx(0.1 * math.log(4) + 1)
