"""Grouped-query attention over the paged cache, dense or over chosen blocks.

Letters: T packed tokens, C hidden size or that of an index head, H query heads, R key/value heads, D head size, X some
heads, J index query heads, I outputs of the index branch's projections.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.config import ModelConfig, SparseConfig
from openm3.kernels.block_mass import block_mass
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.paged import PagedBatch
from openm3.kernels.rotate import HeadNorms, rotate_and_write
from openm3.kernels.select_blocks import select_blocks
from openm3.kernels.sparse_attention import sparse_attention
from openm3.model.batch import Batch
from openm3.model.cache import LayerCache
from openm3.model.linear import FusedLinear, Linear
from openm3.model.norm import RMSNorm
from openm3.model.rope import Rotation, rotate_


class Attention(nn.Module):
    """One layer's attention.

    Args:
        config: the model's.
        sparse: None reads every block; else how blocks are chosen.
        has_index: blocks are chosen by an index branch (MSA, arXiv 2606.13392) of the form that `IndexConfig` says.
            Without it they are chosen by the model's own keys, the score of a block being the maximum over the group's
            query heads and the block's tokens.
        backend: kernel backend.
    """

    def __init__(self, config: ModelConfig, sparse: SparseConfig | None, has_index: bool, backend: str) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.sparse, self.has_index, self.backend = config.head_dim, sparse, has_index, backend
        self.has_qk_norm = config.use_qk_norm
        self.q_proj = Linear(config.hidden_size, self.num_heads * self.head_dim, bias=False)
        self.k_proj = Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=False)
        self.v_proj = Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=False)
        self.o_proj = Linear(self.num_heads * self.head_dim, config.hidden_size, bias=False)
        self.fused: tuple[FusedLinear, ...] = (
            FusedLinear(self.q_proj, self.k_proj, self.v_proj),
            FusedLinear(self.o_proj),
        )
        if self.has_qk_norm:
            self.q_norm, self.k_norm = RMSNorm(self.head_dim, config), RMSNorm(self.head_dim, config)
        if has_index and config.index is not None:
            index = config.index
            self.index_head_dim, self.index_pairs = index.index_head_dim, config.index_rotary_dim // 2
            self.index_q_proj = Linear(config.hidden_size, index.index_n_heads * index.index_head_dim, bias=False)
            self.index_k_proj = Linear(config.hidden_size, index.index_n_key_heads * index.index_head_dim, bias=False)
            self.has_index_norm = index.use_index_norm
            if self.has_index_norm:
                self.index_q_norm = RMSNorm(index.index_head_dim, config)
                self.index_k_norm = RMSNorm(index.index_head_dim, config)
            # By itself: it may have another precision than a quantised model.
            self.fused += (FusedLinear(self.index_q_proj, self.index_k_proj),)

    def forward(self, x_TC: Tensor, stream_TC: Tensor, batch: Batch, cache: LayerCache, rotation: Rotation) -> Tensor:
        """The stream with the result added to it."""
        project, out, *index = self.fused
        index_TI = index[0](x_TC) if index else None
        return out(self.attend(project(x_TC), index_TI, batch, cache, rotation), add_to=stream_TC)

    def attend(
        self, projected: Tensor, index_TI: Tensor | None, batch: Batch, cache: LayerCache, rotation: Rotation
    ) -> Tensor:
        """`[T, H * D]`: what the heads have read.

        Args:
            projected: queries, keys and values of the layer's input.
            index_TI: index queries and keys, where it has an index branch.
            batch, cache: what is read.
            rotation: of the batch's positions.
        """
        k, v, paged, backend = cache.k_PRSD, cache.v_PRSD, batch.paged, self.backend
        q_THD = self._write(projected, paged, cache, rotation)
        index_q_TJC = q_THD
        if index_TI is not None:
            index_q_TJC = self._write_index(index_TI, paged, cache, rotation)
        block_ids_TRN: Tensor | None = None
        if self.sparse is None:
            mixed_THD = dense_attention(q_THD, k, v, paged, backend=backend)
        else:
            block_ids_TRN = self._select(index_q_TJC, batch, cache, self.sparse)
            mixed_THD = sparse_attention(q_THD, k, v, block_ids_TRN, paged, backend=backend)
        for watch in batch.watches:
            ids = None if watch.probes else block_ids_TRN
            watch.add(block_mass(q_THD, k, watch.rows, paged, block_ids_TRN=ids, backend=backend))
        if cache.residency is not None:
            cache.residency.settle(block_ids_TRN, paged)
        return mixed_THD.flatten(1)

    def _select(self, index_q_TJC: Tensor, batch: Batch, cache: LayerCache, sparse: SparseConfig) -> Tensor:
        """int32 `[T, R, N]`: the blocks that every query reads."""
        if cache.quantised is not None:
            cache.quantised.update(cache.choosing, batch.paged)
        return select_blocks(
            index_q_TJC,
            cache.choosing,
            batch.paged,
            sparse,
            num_groups=self.num_kv_heads,
            topk_B=batch.topk_B,
            quantised=cache.quantised,
            backend=self.backend,
        )

    def _write(self, projected: Tensor, paged: PagedBatch, cache: LayerCache, rotation: Rotation) -> Tensor:
        """Writes keys and values to their pages; returns the queries."""
        heads_TXD = projected.unflatten(-1, (-1, self.head_dim))
        k, v, cos_TE, sin_TE = cache.k_PRSD, cache.v_PRSD, rotation.cos_TE, rotation.sin_TE
        norms = head_norms(self.q_norm, self.k_norm) if self.has_qk_norm else None
        return rotate_and_write(heads_TXD, cos_TE, sin_TE, k, v, paged, norms=norms, backend=self.backend)

    def _write_index(
        self, index_TI: Tensor, paged: PagedBatch, cache: LayerCache, rotation: Rotation, *, turns_queries: bool = True
    ) -> Tensor:
        """Writes index keys to their pages; returns the index queries."""
        assert cache.index_k_PXSC is not None, "the cache of a layer with an index branch has index keys"
        heads_TXC, thin = index_TI.unflatten(-1, (-1, self.index_head_dim)), rotation.thinned(self.index_pairs)
        return rotate_and_write(
            heads_TXC,
            thin.cos_TE,
            thin.sin_TE,
            cache.index_k_PXSC,
            None,
            paged,
            norms=head_norms(self.index_q_norm, self.index_k_norm) if self.has_index_norm else None,
            turns_queries=turns_queries,
            backend=self.backend,
        )


def head_norms(of_queries: RMSNorm, of_keys: RMSNorm) -> HeadNorms:
    """What the kernel takes of both."""
    return HeadNorms(of_queries.scale_C.detach(), of_keys.scale_C.detach(), of_queries.eps)


def norm_and_rotate(
    heads_TXD: Tensor,
    num_queries: int,
    norms: tuple[RMSNorm, RMSNorm] | None,
    of_queries: Rotation | None,
    of_keys: Rotation,
) -> tuple[Tensor, Tensor]:
    """The first `num_queries` heads and the others, each normed by its own norm and rotated; computed in fp32.

    What the kernel does (`rotate_and_write`), with gradients.
    """
    x_TXD = _normed(heads_TXD, num_queries, norms)
    if of_queries is of_keys:
        rotate_(x_TXD, of_keys)
    else:
        if of_queries is not None:
            rotate_(x_TXD[:, :num_queries], of_queries)
        rotate_(x_TXD[:, num_queries:], of_keys)
    x_TXD = x_TXD.to(heads_TXD.dtype)
    return x_TXD[:, :num_queries], x_TXD[:, num_queries:]


def _normed(heads_TXD: Tensor, num_queries: int, norms: tuple[RMSNorm, RMSNorm] | None) -> Tensor:
    """A copy in fp32: the first `num_queries` heads normed by the first norm, the others by the second."""
    x_TXD = heads_TXD.float()
    if norms is not None:
        counts = (num_queries, heads_TXD.shape[1] - num_queries)
        scale_XD = torch.cat([n.scale_C.expand(count, -1) for n, count in zip(norms, counts, strict=True)])
        return F.rms_norm(x_TXD, x_TXD.shape[-1:], eps=norms[0].eps).mul_(scale_XD)
    return x_TXD.clone() if x_TXD is heads_TXD else x_TXD
