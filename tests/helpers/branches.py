"""Random index branches for the tiny model, and a model with one as its definition says.

Letters: L tokens of the text, X heads, D head size, E pairs, J index query heads, R groups.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from openm3.config import IndexConfig, ModelConfig, SparseConfig
from openm3.kernels.select_blocks.reference import choose_blocks
from openm3.model.identity import identity_of
from openm3.model.sidecar import TENSORS, Sidecar, tensor_shapes, write_sidecar
from openm3.model.weights import open_checkpoint

PAGE, TOPK = 16, 3

# Forms for the tiny model: 2 layers, 6 query heads and 2 key/value heads of 16.
FORMS: dict[str, dict[str, Any]] = {
    "published": {},
    "key-a-group": {"index_n_key_heads": 2, "use_index_norm": False},
    "all-heads": {"index_n_heads": 6, "index_n_key_heads": 2, "index_head_dim": 32, "index_rotary_dim": 8},
    "unrotated": {"index_n_heads": 4, "use_index_norm": False, "index_rotary_dim": 0},
    "own-keys-above": {"sparse_attention_freq": (1, 0), "own_key_layers": (1,)},
    "dense-above": {"sparse_attention_freq": (1, 0), "index_rotary_dim": 4},
}


def write_branch(model: Path, folder: Path, *, seed: int = 0, identity: str | None = None, **form: Any) -> Path:
    """A sidecar of random numbers for a model; `form` are fields of `IndexConfig`."""
    checkpoint = open_checkpoint(model)
    config = checkpoint.config
    sparse = SparseConfig(index_block_size=PAGE, index_topk_blocks=TOPK)
    shape = {"index_n_heads": config.num_key_value_heads, "index_head_dim": config.head_dim}
    everywhere = {"sparse": sparse, "sparse_attention_freq": (1,) * config.num_hidden_layers}
    index = IndexConfig(**{**shape, **everywhere, **form})
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (0.1 * torch.randn(shape, generator=generator) + (1 if len(shape) == 1 else 0)).bfloat16()
        for name, shape in tensor_shapes(replace(config, index=index)).items()
    }
    write_sidecar(folder, index, tensors, identity or identity_of(checkpoint), {"seed": seed})
    return folder


def naive_logits(model: Path, branch: Path, ids: list[int], near: int | None = None) -> Tensor:
    """fp32 `[L, V]` after every token. With `near` blocks at their true distance, the others as one (clamped)."""
    config = replace(ModelConfig.from_folder(model), index=Sidecar.read(branch).index)
    stored = {**load_file(model / "model.safetensors"), **load_file(branch / TENSORS)}
    weights = {name.removeprefix("model."): tensor.float() for name, tensor in stored.items()}
    x_LC = weights["embed_tokens.weight"][ids]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], weights[f"{name}.weight"], config.rms_norm_eps)

    for layer in range(config.num_hidden_layers):
        name = f"layers.{layer}"
        normed_LC = norm(x_LC, f"{name}.input_layernorm")

        def heads(part: str, size: int, source: Tensor = normed_LC, name: str = name) -> Tensor:
            return F.linear(source, weights[f"{name}.self_attn.{part}_proj.weight"]).unflatten(-1, (-1, size))

        q, k, v = (heads(part, config.head_dim) for part in "qkv")
        index_q, index_k = q, k
        if config.has_index(layer):
            assert config.index is not None
            index_q, index_k = (heads(f"index_{part}", config.index.index_head_dim) for part in "qk")
            if config.index.use_index_norm:
                index_q, index_k = (
                    norm(x, f"{name}.self_attn.index_{part}_norm") for x, part in ((index_q, "q"), (index_k, "k"))
                )
        mixed_LC = _attention(config, layer, (q, k, v), (index_q, index_k), near)
        x_LC = x_LC + F.linear(mixed_LC, weights[f"{name}.self_attn.o_proj.weight"])
        normed_LC = norm(x_LC, f"{name}.post_attention_layernorm")
        gate, up, down = (weights[f"{name}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
        x_LC = x_LC + F.linear(F.silu(F.linear(normed_LC, gate)) * F.linear(normed_LC, up), down)
    return F.linear(norm(x_LC, "norm"), weights["embed_tokens.weight"])


def _attention(
    config: ModelConfig, layer: int, main: tuple[Tensor, ...], index: tuple[Tensor, Tensor], near: int | None
) -> Tensor:
    assert config.index is not None
    q_LXD, k_LRD, v_LRD = main
    length, groups, sparse = len(q_LXD), config.num_key_value_heads, config.index.sparse
    chooses = near is not None or config.has_index(layer) or config.scans_own_keys(layer)
    position_L = torch.arange(length)
    distance_LL = position_L[:, None] - position_L
    far_LL = distance_LL
    if near is not None:
        is_near_LL = position_L // PAGE > (position_L // PAGE - near)[:, None]
        far_LL = ((near + 1) * PAGE - 1 - position_L % PAGE).expand(length, length)
        distance_LL = torch.where(is_near_LL, distance_LL, far_LL)
        sparse = replace(sparse, index_local_blocks=near, index_topk_blocks=near + TOPK, index_init_blocks=1)
    scores_XLL = _scores(q_LXD, k_LRD, distance_LL, config, config.head_dim)
    rotated = config.index_rotary_dim if config.has_index(layer) else config.head_dim
    choosing_JLL = _scores(*index, far_LL, config, rotated)
    hidden_LL = position_L > position_L[:, None]
    out_LXD = torch.empty_like(q_LXD)
    for i in range(length):
        for r in range(groups):
            read_L = ~hidden_LL[i]
            if chooses:
                best_L = choosing_JLL.unflatten(0, (groups, -1))[r, :, i].amax(0)[: i + 1]
                ids = choose_blocks([float(block.max()) for block in best_L.split(PAGE)], sparse)
                read_L = read_L & torch.isin(position_L // PAGE, torch.tensor(ids))
            group = slice(r * len(scores_XLL) // groups, (r + 1) * len(scores_XLL) // groups)
            shown_GL = scores_XLL[group, i].masked_fill(~read_L, -math.inf) / math.sqrt(config.head_dim)
            out_LXD[i, group] = (shown_GL.softmax(-1) @ v_LRD[:, r].double()).float()
    return out_LXD.flatten(1)


def _scores(q_LXD: Tensor, k_LRD: Tensor, distance_LL: Tensor, config: ModelConfig, rotated: int) -> Tensor:
    """fp64 `[X, L, L]`: each pair of elements as a complex number, turned by the distance."""
    num_pairs = rotated // 2
    freq_E = config.rope_theta ** (-torch.arange(num_pairs).double() / max(1, num_pairs))
    k_LXD = k_LRD.repeat_interleave(q_LXD.shape[1] // k_LRD.shape[1], 1).double()
    q_LXD = q_LXD.double()
    q_LXE, k_LXE = (torch.complex(x[..., :num_pairs], x[..., num_pairs:rotated]) for x in (q_LXD, k_LXD))
    turn_LLE = torch.polar(torch.ones(()).double(), distance_LL[..., None] * freq_E)
    turned = torch.einsum("ixe,jxe,ije->xij", q_LXE, k_LXE.conj(), turn_LLE).real
    return turned + torch.einsum("ixd,jxd->xij", q_LXD[..., rotated:], k_LXD[..., rotated:])
