"""`attn_implementation="openm3_msa"` for the M3 models of `transformers`.

    import openm3.integrations.transformers as openm3_msa

    openm3_msa.register()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="openm3_msa")

Letters: B batch, H query heads, R key/value heads, J index heads, T query tokens, L tokens of the context, D head size,
N chosen blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.minimax_m3_vl import modeling_minimax_m3_vl as m3

from openm3.config import SparseConfig
from openm3.functional import attend_blocks
from openm3.kernels.backend import choose
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.plain import PlainLayout
from openm3.kernels.select_blocks import select_blocks

NAME = "openm3_msa"


def register() -> None:
    """Makes `attn_implementation="openm3_msa"` known to `transformers`; calling it again changes nothing.

    Models with another implementation run as before. Those with this one get our attention, and an indexer whose
    selection needs no scores of T x L: `MiniMaxM3VLIndexer.forward` is replaced by one that looks at the model's
    configuration and calls the original for everybody else. Padding must be on the right: blocks are counted in
    cache slots by `transformers`, so left padding would change what is selected, and is a ValueError.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)
    if m3.MiniMaxM3VLIndexer.forward is not _indexer_forward:
        m3.MiniMaxM3VLIndexer.forward = _indexer_forward  # type: ignore[method-assign]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    block_indices: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that a model calls.

    Args:
        module: the model's attention layer.
        query: `[B, H, T, D]`.
        key, value: `[B, R, L, D]`.
        attention_mask: None, or the `[B, L]` mask of a batch padded on the right.
        scaling: of q·k; 1 / sqrt(D) when None.
        dropout: must be 0.
        block_indices: `[B, J, T, N]` of a sparse layer, -1 where fewer are chosen; None in a dense one.
        kwargs: what else the layer passes to every implementation.

    Returns:
        `[B, T, H, D]` and None for the weights, which are never formed.

    Raises:
        ValueError: dropout, or padding that is not on the right.
    """
    if dropout:
        raise ValueError(f"dropout: {NAME} has none, got {dropout}")
    if not getattr(module, "is_causal", True):  # a vision layer: all of a segment sees all of it
        return _torchs(module, query, key, value, scaling)
    _check_padding(attention_mask)
    scale = float(query.shape[-1] ** -0.5) if scaling is None else scaling
    config: Any = module.config
    if block_indices is not None:
        layout = PlainLayout.build(query, key, config.index_block_size)
        ids_TRN = _ascending(block_indices).transpose(1, 2).flatten(0, 1)
        out_BHTD, _ = attend_blocks(query, key, value, ids_TRN, layout, scale=scale, backend=choose(like=query))
        return out_BHTD.transpose(1, 2), None
    if (
        query.requires_grad or query.shape[2] == key.shape[2]
    ):  # torch has the backward, and a causal mask without prefix
        return _torchs(module, query, key, value, scaling)
    layout = PlainLayout.build(query, key, config.index_block_size)
    pages = layout.to_pages(key), layout.to_pages(value)
    out_THD = dense_attention(layout.pack(query), *pages, layout.batch, scale=scale, backend=choose(like=query))
    return layout.unpack(out_THD).transpose(1, 2), None


def _torchs(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, scaling: float | None) -> tuple[Tensor, None]:
    out, _ = sdpa_attention_forward(
        module, q, k, v, None, scaling=scaling, is_causal=getattr(module, "is_causal", True)
    )
    return out, None


_original_forward = m3.MiniMaxM3VLIndexer.forward


def _indexer_forward(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    past_key_values: Any,
    position_ids: Tensor,
) -> Tensor:
    """`[B, J, T, N]` as the original, by `select_blocks` instead of all scores."""
    if self.config._attn_implementation != NAME:
        chosen: Tensor = _original_forward(self, hidden_states, position_embeddings, past_key_values, position_ids)
        return chosen
    shape = (*hidden_states.shape[:2], -1, self.head_dim)
    q_BJTC = self.q_norm(self.q_proj(hidden_states).view(shape)).transpose(1, 2)
    k_B1TC = self.k_norm(self.k_proj(hidden_states).view(shape)).transpose(1, 2)
    cos, sin = (table[..., : self.head_dim] for table in position_embeddings)
    q_BJTC, k_B1TC = m3.apply_rotary_pos_emb(q_BJTC, k_B1TC, cos, sin)  # type: ignore[no-untyped-call]
    k_B1LC = k_B1TC if past_key_values is None else past_key_values.layers[self.layer_idx].update_index(k_B1TC)
    slots = torch.arange(k_B1LC.shape[2] - q_BJTC.shape[2], k_B1LC.shape[2])
    if not torch.equal(position_ids, slots.expand_as(position_ids)):
        raise ValueError(f"position_ids: {NAME} needs positions equal to cache slots; pad on the right")
    sparse = SparseConfig(
        index_block_size=self.block_size, index_topk_blocks=self.topk_blocks, index_local_blocks=self.local_blocks
    )
    layout = PlainLayout.build(q_BJTC, k_B1LC, self.block_size)
    ids_TRN = select_blocks(
        layout.pack(q_BJTC.detach()),
        layout.to_pages(k_B1LC.detach()),
        layout.batch,
        sparse,
        num_groups=self.num_heads,
        backend=choose(like=q_BJTC),
    )
    return layout.unpack(ids_TRN)


def _ascending(ids_BJTN: Tensor) -> Tensor:
    """int32, each list ascending with -1 on the right, as our kernels want it."""
    last = torch.iinfo(torch.int32).max
    ids = torch.where(ids_BJTN < 0, last, ids_BJTN).int().sort(dim=-1).values
    return ids.masked_fill(ids == last, -1)


def _mask(*, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """The mask that layers get: the batch's own `[B, L]` padding mask, never one of queries x context."""
    return attention_mask if attention_mask is not None and not bool(attention_mask.all()) else None


def _check_padding(mask_BL: Tensor | None) -> None:
    """Right padding needs no mask: no earlier query sees it."""
    if mask_BL is None:
        return
    if mask_BL.ndim != 2:
        raise ValueError(f"attention_mask: {NAME} takes the [B, L] padding mask, got {list(mask_BL.shape)}")
    if bool((mask_BL[:, 1:].bool() & ~mask_BL[:, :-1].bool()).any()):
        raise ValueError(f"attention_mask: {NAME} needs padding on the right")
