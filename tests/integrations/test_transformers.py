"""`attn_implementation="openm3_msa"` against transformers' own eager and sdpa on small random M3 models."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from transformers.models.minimax_m3_vl import MiniMaxM3VLTextConfig, MiniMaxM3VLTextModel

from openm3.integrations import transformers as integration


@pytest.fixture(scope="module")
def eager() -> Any:
    """Two dense and two sparse layers, blocks of 16, 3 of them; partial rotary spelled out, as it must be."""
    integration.register()
    integration.register()
    torch.manual_seed(0)
    config = MiniMaxM3VLTextConfig(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=64,
        dense_intermediate_size=64,
        shared_intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        index_n_heads=2,
        index_head_dim=16,
        index_block_size=16,
        index_topk_blocks=3,
        index_local_blocks=1,
        layer_types=["full_attention", "minimax_m3_sparse", "full_attention", "minimax_m3_sparse"],
        mlp_layer_types=["dense", "dense", "sparse", "sparse"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        max_position_embeddings=512,
    )
    return MiniMaxM3VLTextModel._from_config(config, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def ours(eager: Any) -> Any:
    model = copy.deepcopy(eager)
    model.set_attn_implementation(integration.NAME)
    return model


# What transformers calls the argument, before 5.24 and since.
CACHE = "cache" if "cache" in inspect.signature(MiniMaxM3VLTextModel.forward).parameters else "past_key_values"
IDS = torch.randint(0, 100, (2, 150), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def hidden(model: Any, **inputs: Any) -> Any:
    return model(**inputs)


def test_prefill(eager: Any, ours: Any) -> None:
    expected = hidden(eager, input_ids=IDS).last_hidden_state
    torch.testing.assert_close(hidden(ours, input_ids=IDS).last_hidden_state, expected, atol=2e-5, rtol=0)


def test_cached_decode_and_chunks(eager: Any, ours: Any) -> None:
    expected = hidden(eager, input_ids=IDS).last_hidden_state
    cache, parts = None, []
    for part in IDS.split([60, 40, *[1] * 50], dim=1):
        out = hidden(ours, input_ids=part, use_cache=True, **{CACHE: cache})
        cache = out.past_key_values
        parts.append(out.last_hidden_state)
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=2e-5, rtol=0)


def test_right_padding(eager: Any, ours: Any) -> None:
    mask = torch.ones_like(IDS)
    mask[1, 100:] = 0
    expected = hidden(eager, input_ids=IDS, attention_mask=mask).last_hidden_state
    out = hidden(ours, input_ids=IDS, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(out[0], expected[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(out[1, :100], expected[1, :100], atol=2e-5, rtol=0)
    alone = hidden(ours, input_ids=IDS[1:, :100]).last_hidden_state
    torch.testing.assert_close(out[1:, :100], alone, atol=2e-5, rtol=0)


def test_left_padding_is_refused(ours: Any) -> None:
    mask = torch.ones_like(IDS)
    mask[1, :30] = 0
    with pytest.raises(ValueError, match="needs padding on the right"):
        hidden(ours, input_ids=IDS, attention_mask=mask)


def test_a_random_indexer_changes_the_output(eager: Any, ours: Any) -> None:
    other = copy.deepcopy(ours)
    for layer in other.layers:
        if layer.self_attn.indexer is not None:
            torch.nn.init.normal_(layer.self_attn.indexer.q_proj.weight)
    before, after = (hidden(model, input_ids=IDS).last_hidden_state for model in (ours, other))
    assert (before[:, :48] - after[:, :48]).abs().max() < 1e-5, "three blocks are all there is to choose"
    assert (before - after).abs().max() > 1e-3


def test_gradients(eager: Any, ours: Any) -> None:
    grads = []
    for model in (eager, ours):
        model.zero_grad()
        model(input_ids=IDS).last_hidden_state.square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-3 * float(grad.abs().max()) + 1e-6, rtol=1e-3)


def test_other_implementations_are_left_alone(eager: Any) -> None:
    sdpa = copy.deepcopy(eager)
    sdpa.set_attn_implementation("sdpa")
    expected = hidden(eager, input_ids=IDS).last_hidden_state
    torch.testing.assert_close(hidden(sdpa, input_ids=IDS).last_hidden_state, expected, atol=2e-5, rtol=0)
