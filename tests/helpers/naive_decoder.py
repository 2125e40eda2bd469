"""The forward pass and losses of M3 and the Llama family for one sequence, written out with T x T masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openm3.config import ModelConfig, SparseConfig


@dataclass
class Naive:
    """Sums over a sequence of its language-model loss and of the alignment losses; logits `[T, V]`."""

    nll: Tensor
    kl: Tensor
    logits: Tensor


def naive(
    w: Mapping[str, Tensor], config: ModelConfig, ids: Tensor, sparse: SparseConfig | None, dense: bool = False
) -> Naive:
    """`w` has `TrainableDecoder`'s names; `sparse` is how layers choose blocks, by their own keys without a branch."""
    x, kl, t = F.embedding(ids, w["embed_tokens.weight"]), torch.zeros(()), len(ids)

    def norm(x: Tensor, name: str) -> Tensor:
        scale = w[name] + 1 if config.use_gemma_norm else w[name]
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * scale

    def turn(x: Tensor) -> Tensor:  # [heads, T, size]
        size = config.rotary_dim or config.head_dim
        angle = torch.outer(torch.arange(t), config.rope_theta ** (-torch.arange(0, size, 2) / size))
        first, second, rest = x[..., : size // 2], x[..., size // 2 : size], x[..., size:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), -1)

    def heads(x: Tensor, name: str, size: int, norm_name: str | None = None) -> Tensor:
        out = (x @ w[f"{name}.weight"].T).view(t, -1, size)
        return turn((norm(out, f"{norm_name}.weight") if norm_name else out).transpose(0, 1))

    def gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        g, u = x @ gate.T, x @ up.T
        if config.swiglu is None:
            return (F.silu(g) * u) @ down.T
        limit, g = config.swiglu.swiglu_limit, g.clamp(max=config.swiglu.swiglu_limit)
        hidden = (u.clamp(-limit, limit) + config.swiglu.swiglu_beta) * g * (config.swiglu.swiglu_alpha * g).sigmoid()
        return hidden @ down.T

    def mlp(x: Tensor, name: str) -> Tensor:
        return gated(x, *(w[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down")))

    visible = torch.ones(t, t, dtype=torch.bool).tril()
    groups = config.num_key_value_heads
    for i in range(config.num_hidden_layers):
        at, y = f"layers.{i}", norm(x, f"layers.{i}.input_layernorm.weight")
        q_norm, k_norm = (f"{at}.self_attn.{n}_norm" if config.use_qk_norm else None for n in "qk")
        q = heads(y, f"{at}.self_attn.q_proj", config.head_dim, q_norm)
        k = heads(y, f"{at}.self_attn.k_proj", config.head_dim, k_norm)
        v = (y @ w[f"{at}.self_attn.v_proj.weight"].T).view(t, groups, -1).transpose(0, 1)
        index_q, index_k = q, k
        if config.has_index(i):
            assert config.index is not None
            names = [f"{at}.self_attn.index_{n}" for n in "qk"]
            index_q, index_k = (heads(y.detach(), f"{n}_proj", config.index.index_head_dim, f"{n}_norm") for n in names)
        chooses = sparse is not None and (config.index is None or config.has_index(i))
        index_scores = (index_q.unflatten(0, (groups, -1)) @ index_k[:, None].mT).amax(1)
        mask = chosen(index_scores, visible, sparse) if chooses and not dense else visible.expand(groups, t, t)
        scores = q.unflatten(0, (groups, -1)) @ k[:, None].mT * config.head_dim**-0.5
        weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        read = (weights @ v[:, None]).flatten(0, 1).transpose(0, 1).flatten(1)
        x = x + read @ w[f"{at}.self_attn.o_proj.weight"].T
        if config.has_index(i):
            student = (index_scores * index_q.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf).log_softmax(-1)
            teacher = weights.detach().mean(1)
            terms = torch.where(mask, torch.xlogy(teacher, teacher) - teacher * student.masked_fill(~mask, 0), 0)
            kl = kl + terms.sum() / groups
        y = norm(x, f"{at}.post_attention_layernorm.weight")
        if not config.has_experts(i):
            x = x + mlp(y, f"{at}.mlp")
            continue
        assert config.moe is not None
        moe, added = f"{at}.block_sparse_moe", []
        affinity = (y @ w[f"{moe}.gate.weight"].T).sigmoid()
        for y_1, affinity_1 in zip(y, affinity, strict=True):
            ids_1 = (affinity_1 + w[f"{moe}.e_score_correction_bias"]).topk(config.moe.num_experts_per_tok).indices
            total = affinity_1[ids_1].sum() / config.moe.routed_scaling_factor
            parts = [[w[f"{moe}.experts.{part}"][e] for part in ("w1", "w3", "w2")] for e in ids_1]
            added.append(sum(affinity_1[e] / total * gated(y_1, *p) for e, p in zip(ids_1, parts, strict=True)))
        x = x + mlp(y, f"{moe}.shared_experts") + torch.stack(added)
    head = w["embed_tokens.weight"] if config.tie_word_embeddings else w["lm_head.weight"]
    logits = norm(x, "norm.weight") @ head.T
    return Naive(F.cross_entropy(logits[:-1], ids[1:], reduction="sum"), kl, logits)


def chosen(scores: Tensor, visible: Tensor, sparse: SparseConfig | None) -> Tensor:
    """bool `[R, T, T]`: what a query reads by index scores, its own block always among it."""
    assert sparse is not None
    t, size = len(visible), sparse.index_block_size
    padded = F.pad(scores.detach().masked_fill(~visible, -torch.inf), (0, -t % size), value=-torch.inf)
    best = padded.unflatten(-1, (-1, size)).amax(-1)
    best[:, torch.arange(t), torch.arange(t) // size] = torch.inf
    top = best.topk(min(sparse.index_topk_blocks, best.shape[-1])).indices
    keep = torch.zeros_like(best, dtype=torch.bool).scatter_(-1, top, True)
    return keep.repeat_interleave(size, -1)[..., :t] & visible
