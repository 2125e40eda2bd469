"""Clamped distances through the whole network: against a naive model, and the laws of the engine.

Letters: L tokens of the text, H query heads, D head size, E pairs, V vocabulary.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from helpers.tiny_m3 import tiny_m3_config, write_tiny_m3
from openm3.config import EngineConfig, ModelConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.kernels.backend import BACKENDS
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks.reference import choose_blocks
from openm3.model.batch import Batch
from openm3.model.rope import rotation

PAGE, NEAR, FAR = 16, 2, 3
ON_CPU = [name for name in BACKENDS if name != "triton"]


def llm(folder: Path, **changes: Any) -> LLM:
    sparse = SparseConfig(index_block_size=PAGE, index_topk_blocks=FAR)
    sizes = {"prefill_chunk": 32, "max_batch_tokens": 96, "max_running": 16, "dtype": "float32"}
    clamped = {"extend": "clamped", "near_window": NEAR * PAGE}
    return LLM(folder, EngineConfig(**{"sparse": sparse, **clamped, **sizes, **changes}))


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def logits(model: LLM, ids: list[int], pages: list[int] | None = None, step: int = 32) -> Tensor:
    """fp32 `[L, V]` after every token, read in steps."""
    found = []
    for start in range(0, len(ids), step):
        stop = min(start + step, len(ids))
        paged = PagedBatch.build([stop - start], [stop], [pages or list(range(32))], PAGE)
        batch = Batch(torch.tensor(ids[start:stop]), paged, torch.arange(stop - start))
        found.append(model.engine.runner.run(batch))
    return torch.cat(found)


def naive_logits(folder: Path, ids: list[int]) -> Tensor:
    """The definition, token by token and pair by pair: each score at the distance that its pair is seen at."""
    config = ModelConfig.from_folder(folder)
    stored = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    x = weights["embed_tokens.weight"][ids]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], weights[f"{name}.weight"], config.rms_norm_eps)

    for i in range(config.num_hidden_layers):
        name = f"layers.{i}"
        normed = norm(x, f"{name}.input_layernorm")
        q, k, v = (
            F.linear(normed, weights[f"{name}.self_attn.{part}_proj.weight"]).unflatten(-1, (-1, size))
            for part in "qkv"
        )
        k, v = (part.repeat_interleave(heads // kv_heads, 1) for part in (k, v))
        x = x + F.linear(
            naive_attention(q, k, v, kv_heads, config.rope_theta), weights[f"{name}.self_attn.o_proj.weight"]
        )
        normed = norm(x, f"{name}.post_attention_layernorm")
        gate, up, down = (weights[f"{name}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
        x = x + F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down)
    return F.linear(norm(x, "norm"), weights["embed_tokens.weight"])


def naive_attention(q_LHD: Tensor, k_LHD: Tensor, v_LHD: Tensor, groups: int, theta: float) -> Tensor:
    length, num_heads, size = q_LHD.shape
    inv_freq_E = theta ** (-torch.arange(0, size, 2).double() / size)
    group_size = num_heads // groups
    out_LHD = torch.empty_like(q_LHD)

    def score(i: int, j: int, heads: slice, distance: int) -> Tensor:
        first, second = q_LHD[i, heads].double().chunk(2, -1)
        cos, sin = (distance * inv_freq_E).cos(), (distance * inv_freq_E).sin()
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
        return (turned * k_LHD[j, heads].double()).sum(-1)

    far_distance = (NEAR + 1) * PAGE - 1
    for i in range(length):
        first_near = max(0, i // PAGE - NEAR + 1)
        for r in range(groups):
            heads = slice(r * group_size, (r + 1) * group_size)
            scores = [
                score(i, j, heads, i - j if j // PAGE >= first_near else far_distance - j % PAGE) for j in range(i + 1)
            ]
            best = [
                max(float(scores[j].max()) for j in range(b * PAGE, min((b + 1) * PAGE, i + 1)))
                for b in range(i // PAGE + 1)
            ]
            sparse = SparseConfig(
                index_block_size=PAGE, index_topk_blocks=NEAR + FAR, index_local_blocks=NEAR, index_init_blocks=1
            )
            chosen = choose_blocks(best, sparse)
            read = [j for j in range(i + 1) if j // PAGE in chosen]
            weights_GL = (torch.stack([scores[j] for j in read], -1) / math.sqrt(size)).softmax(-1)
            out_LHD[i, heads] = torch.einsum("gl,lgd->gd", weights_GL, v_LHD[read][:, heads].double()).float()
    return out_LHD.flatten(1)


@pytest.fixture(scope="module")
def tiny_m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sparse = {"sparse_block_size": PAGE, "sparse_topk_blocks": FAR}
    raw = tiny_m3_config(sparse=sparse, max_position_embeddings=512)
    return write_tiny_m3(tmp_path_factory.mktemp("m3") / "tiny", raw)


@torch.no_grad()
def test_equals_the_naive_model(tiny_model: Path) -> None:
    model, ids = llm(tiny_model, backend="reference"), prompt(150)
    torch.testing.assert_close(logits(model, ids), naive_logits(tiny_model, ids), atol=2e-3, rtol=0)


@pytest.mark.parametrize("backend", [name for name in ON_CPU if name != "reference"])
@pytest.mark.parametrize("kind", ["tiny_model", "tiny_m3"])
def test_backends_agree(kind: str, backend: str, request: pytest.FixtureRequest) -> None:
    folder, ids = request.getfixturevalue(kind), prompt(200)
    expected = logits(llm(folder, backend="reference", **blocks(kind)), ids)
    torch.testing.assert_close(logits(llm(folder, backend=backend, **blocks(kind)), ids), expected, atol=2e-3, rtol=0)


def blocks(kind: str) -> dict[str, Any]:
    """A model with an index branch brings its own."""
    return {"sparse": None} if kind == "tiny_m3" else {}


@pytest.mark.parametrize("kind", ["tiny_model", "tiny_m3"])
def test_chunks_single_tokens_and_places_of_pages_change_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    model, ids = llm(request.getfixturevalue(kind), **blocks(kind)), prompt(150)
    whole = logits(model, ids, step=150)
    for step, pages in ((32, None), (7, None), (1, None), (32, torch.randperm(32).tolist())):
        torch.testing.assert_close(logits(model, ids, pages, step), whole, atol=1e-3, rtol=0)


def test_within_the_near_window_it_is_dense(tiny_model: Path) -> None:
    ids = prompt(10 * PAGE)
    clamped = logits(llm(tiny_model, near_window=10 * PAGE), ids)
    dense = logits(llm(tiny_model, extend="none", near_window=None), ids)
    torch.testing.assert_close(clamped, dense, atol=1e-3, rtol=0)
    short = logits(llm(tiny_model), ids)
    torch.testing.assert_close(short[: NEAR * PAGE], dense[: NEAR * PAGE], atol=1e-3, rtol=0)
    assert (short[NEAR * PAGE :] - dense[NEAR * PAGE :]).abs().amax(-1).min() > 1e-2


@pytest.mark.parametrize("kind", ["tiny_model", "tiny_m3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_known_prefix_and_the_crowd_change_no_token(kind: str, dtype: str, request: pytest.FixtureRequest) -> None:
    folder, params = request.getfixturevalue(kind), SamplingParams(max_tokens=12, ignore_eos=True)
    cached = llm(folder, dtype=dtype, **blocks(kind))
    fresh = llm(folder, dtype=dtype, prefix_cache=False, **blocks(kind))
    base = prompt(150)
    prompts = [base, base, base[:64], base[:97] + prompt(20, seed=1), prompt(10, seed=2)]
    alone = [fresh.generate([each], params)[0].token_ids for each in prompts]
    assert [cached.generate([each], params)[0].token_ids for each in prompts] == alone
    assert [answer.token_ids for answer in fresh.generate(prompts, params)] == alone


def test_it_is_the_runner_s_and_can_be_read(tiny_model: Path) -> None:
    model = llm(tiny_model, extend="auto", max_context=2048, near_window=None)
    extension = model.engine.runner.extension
    assert extension is not None
    assert (extension.method, extension.factor, extension.near_blocks) == ("clamped", 4.0, 16)
    assert model.config.topk == 16 + FAR
    [answer] = model.generate([prompt(1500)], SamplingParams(max_tokens=4, ignore_eos=True))
    assert 0 < answer.stats.blocks_read < answer.stats.blocks_visible


@pytest.mark.parametrize("method", ["ntk", "yarn"])
def test_stretched_angles_work_with_both_kinds_of_attention(tiny_model: Path, method: str) -> None:
    ids = prompt(700)
    for attention in ("dense", "sparse"):
        changes = {"extend": method, "attention": attention, "max_context": 1024, "near_window": None}
        model = llm(tiny_model, **changes)
        plain = llm(tiny_model, **{**changes, "extend": "none"})
        assert (logits(model, ids, list(range(64))) != logits(plain, ids, list(range(64)))).any()


def test_angles_of_large_positions_are_exact() -> None:
    inv_freq_E = 1.0 / 5e6 ** (torch.arange(0, 64, 2).float() / 64)
    for position in (0, 1, 8191, 262_143, 1_048_575):
        turned = rotation(inv_freq_E, torch.tensor([position]))
        for pair in (0, 1, 7, 31):
            angle = position * float(inv_freq_E[pair])
            assert float(turned.cos_TE[0, pair]) == pytest.approx(math.cos(angle), abs=1e-7)
            assert float(turned.sin_TE[0, pair]) == pytest.approx(math.sin(angle), abs=1e-7)
