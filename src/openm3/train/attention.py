"""Attention with gradients: over all that a document has before a token, or over blocks that the layer chooses.

Letters: T packed tokens, t tokens of a sequence, C hidden size or that of an index head, H query heads, R key/value
heads, D head size, J index query heads, X some heads, E pairs of a rotation.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.config import ModelConfig, SparseConfig
from openm3.functional import msa
from openm3.model.linear import Linear
from openm3.model.norm import RMSNorm
from openm3.model.rope import Rotation
from openm3.train.packed import Packed


class TrainableAttention(nn.Module):
    """`model.attention.Attention` without cache, with its parameters under the same names.

    Args:
        config: the model's.
        sparse: None reads every block; else how blocks are chosen.
        has_index: they are chosen by an index branch, else by the model's own keys.
    """

    def __init__(self, config: ModelConfig, sparse: SparseConfig | None, has_index: bool) -> None:
        super().__init__()
        num_heads, num_kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.head_dim, self.num_groups, self.sparse, self.has_index = size, num_kv_heads, sparse, has_index
        self.q_proj = Linear(config.hidden_size, num_heads * size, bias=False)
        self.k_proj = Linear(config.hidden_size, num_kv_heads * size, bias=False)
        self.v_proj = Linear(config.hidden_size, num_kv_heads * size, bias=False)
        self.o_proj = Linear(num_heads * size, config.hidden_size, bias=False)
        self.has_qk_norm = config.use_qk_norm
        if self.has_qk_norm:
            self.q_norm, self.k_norm = RMSNorm(size, config), RMSNorm(size, config)
        if has_index and config.index is not None:
            index = config.index
            self.index_head_dim, self.index_pairs = index.index_head_dim, config.index_rotary_dim // 2
            self.index_q_proj = Linear(config.hidden_size, index.index_n_heads * index.index_head_dim, bias=False)
            self.index_k_proj = Linear(config.hidden_size, index.index_n_key_heads * index.index_head_dim, bias=False)
            self.has_index_norm = index.use_index_norm
            if self.has_index_norm:
                self.index_q_norm = RMSNorm(index.index_head_dim, config)
                self.index_k_norm = RMSNorm(index.index_head_dim, config)

    def forward(
        self, x_TC: Tensor, packed: Packed, rotation: Rotation, dense: bool, align: bool
    ) -> tuple[Tensor, Tensor]:
        """What is added to the stream, and the alignment loss of every token, summed.

        Args:
            x_TC: the layer's input, in the dtype of products.
            packed: which tokens belong together.
            rotation: of their positions.
            dense: read every block.
            align: compute the loss, over what is read, where the layer has an index branch; else it is 0.
        """
        q_THD = self._heads(self.q_proj, x_TC, "q_norm" if self.has_qk_norm else None, rotation)
        k_TRD = self._heads(self.k_proj, x_TC, "k_norm" if self.has_qk_norm else None, rotation)
        v_TRD = self.v_proj(x_TC).unflatten(-1, (-1, self.head_dim))
        index = self._index(x_TC, rotation) if self.has_index else (q_THD, k_TRD)
        mixed, losses = [], [x_TC.new_zeros((), dtype=torch.float32)]
        for parts in zip(*(packed.split(x) for x in (q_THD, k_TRD, v_TRD, *index)), strict=True):
            q, k, v, index_q, index_k = (part.transpose(0, 1)[None] for part in parts)
            num_tokens = q.shape[2]
            sparse = self._sparse(num_tokens, dense)
            if self.has_index and align:
                assert sparse is not None
                out, loss = msa(q, k, v, index_q, index_k, sparse=sparse, kl="selected")
                losses.append(loss * num_tokens)
            elif sparse is None or num_tokens <= sparse.index_block_size * sparse.index_topk_blocks:
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            else:
                out = msa(q, k, v, index_q, index_k, sparse=sparse)
            mixed.append(out[0].transpose(0, 1))
        return self.o_proj(torch.cat(mixed).flatten(1)), torch.stack(losses).sum()

    def _sparse(self, num_tokens: int, dense: bool) -> SparseConfig | None:
        """The blocks that queries of a sequence of this length read."""
        if self.sparse is None or not dense:
            return self.sparse
        all_blocks = -(-num_tokens // self.sparse.index_block_size)
        return dataclasses.replace(self.sparse, index_topk_blocks=max(all_blocks, self.sparse.index_topk_blocks))

    def _index(self, x_TC: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Index queries and keys. Their input is detached: the alignment loss teaches the branch and nothing else."""
        x_TC, rotation = x_TC.detach(), rotation.thinned(self.index_pairs)
        norms = ("index_q_norm", "index_k_norm") if self.has_index_norm else (None, None)
        q_TJC = self._heads(self.index_q_proj, x_TC, norms[0], rotation, self.index_head_dim)
        return q_TJC, self._heads(self.index_k_proj, x_TC, norms[1], rotation, self.index_head_dim)

    def _heads(
        self, projection: nn.Module, x_TC: Tensor, norm: str | None, rotation: Rotation, size: int | None = None
    ) -> Tensor:
        """`[T, X, size]`: projected, normed head by head and rotated; the last two in fp32."""
        out_TXD: Tensor = projection(x_TC).unflatten(-1, (-1, size or self.head_dim))
        x_TXD = out_TXD.float()
        if norm is not None:
            x_TXD = self.get_submodule(norm)(x_TXD.flatten(0, 1), torch.float32, "torch").view_as(x_TXD)
        return rotated(x_TXD, rotation).to(out_TXD.dtype)


def rotated(x_TXD: Tensor, rotation: Rotation) -> Tensor:
    """A copy of fp32 heads, their first 2E elements rotated; `model.rope.rotate_` with a gradient."""
    cos_T1E, sin_T1E = rotation.cos_TE[:, None], rotation.sin_TE[:, None]
    num_pairs = cos_T1E.shape[-1]
    first, second, rest = x_TXD.tensor_split((num_pairs, 2 * num_pairs), dim=-1)
    return torch.cat((first * cos_T1E - second * sin_T1E, second * cos_T1E + first * sin_T1E, rest), dim=-1)
