"""Grouped-query attention over the paged cache, dense or over chosen blocks.

Letters: T packed tokens, C hidden size, H query heads, R key/value heads, D head size, X some heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.config import ModelConfig, SparseConfig
from openm3.kernels.block_mass import block_mass
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.paged import PagedBatch
from openm3.kernels.rotate import rotate_and_write
from openm3.kernels.select_blocks import select_blocks
from openm3.kernels.sparse_attention import sparse_attention
from openm3.kernels.write_cache import write_cache
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
        has_index: blocks are chosen by an index branch (MSA, arXiv 2606.13392): one index query head for each
            group of heads, and one index key head for all. Without it they are chosen by the model's own keys,
            the score of a block being the maximum over the group's query heads and the block's tokens.
        backend: kernel backend.
    """

    def __init__(self, config: ModelConfig, sparse: SparseConfig | None, has_index: bool, backend: str) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.sparse, self.has_index, self.backend = config.head_dim, sparse, has_index, backend
        self.has_qk_norm = config.use_qk_norm
        self.rotates_all = config.rotary_dim in (None, config.head_dim)
        self.q_proj = Linear(config.hidden_size, self.num_heads * self.head_dim, bias=False)
        self.k_proj = Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=False)
        self.v_proj = Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=False)
        self.o_proj = Linear(self.num_heads * self.head_dim, config.hidden_size, bias=False)
        parts = [self.q_proj, self.k_proj, self.v_proj]
        if self.has_qk_norm:
            self.q_norm, self.k_norm = RMSNorm(self.head_dim, config), RMSNorm(self.head_dim, config)
        if has_index and config.index is not None:
            index = config.index
            self.index_head_dim = index.index_head_dim
            self.index_q_proj = Linear(config.hidden_size, index.index_n_heads * index.index_head_dim, bias=False)
            self.index_k_proj = Linear(config.hidden_size, index.index_head_dim, bias=False)
            self.index_q_norm = RMSNorm(index.index_head_dim, config)
            self.index_k_norm = RMSNorm(index.index_head_dim, config)
            parts += [self.index_q_proj, self.index_k_proj]
        self.fused = (FusedLinear(*parts), FusedLinear(self.o_proj))

    def forward(self, x_TC: Tensor, stream_TC: Tensor, batch: Batch, cache: LayerCache, rotation: Rotation) -> Tensor:
        """The stream with the result added to it."""
        project, out = self.fused
        return out(self.attend(project(x_TC), batch, cache, rotation), add_to=stream_TC)

    def attend(self, projected: Tensor, batch: Batch, cache: LayerCache, rotation: Rotation) -> Tensor:
        """`[T, H * D]`: what the heads have read, of all that is projected from the layer's input."""
        k, v, paged, backend = cache.k_PRSD, cache.v_PRSD, batch.paged, self.backend
        q_THD, index_q_TRC = self._write(projected, paged, cache, rotation)
        block_ids_TRN: Tensor | None = None
        if self.sparse is None:
            mixed_THD = dense_attention(q_THD, k, v, paged, backend=backend)
        else:
            block_ids_TRN = self._select(index_q_TRC, batch, cache, self.sparse)
            mixed_THD = sparse_attention(q_THD, k, v, block_ids_TRN, paged, backend=backend)
        for watch in batch.watches:
            ids = None if watch.probes else block_ids_TRN
            watch.add(block_mass(q_THD, k, watch.rows, paged, block_ids_TRN=ids, backend=backend))
        if cache.residency is not None:
            cache.residency.settle(block_ids_TRN, paged)
        return mixed_THD.flatten(1)

    def _select(self, index_q_TRC: Tensor, batch: Batch, cache: LayerCache, sparse: SparseConfig) -> Tensor:
        """int32 `[T, R, N]`: the blocks that every query reads."""
        if cache.quantised is not None:
            cache.quantised.update(cache.choosing, batch.paged)
        return select_blocks(
            index_q_TRC,
            cache.choosing,
            batch.paged,
            sparse,
            num_groups=self.num_kv_heads,
            topk_B=batch.topk_B,
            quantised=cache.quantised,
            backend=self.backend,
        )

    def _write(
        self, projected: Tensor, paged: PagedBatch, cache: LayerCache, rotation: Rotation
    ) -> tuple[Tensor, Tensor]:
        """Writes keys, values and index keys to their pages; returns the queries and what chooses their blocks."""
        if not self.has_qk_norm and self.rotates_all and not self.has_index:
            heads_TXD = projected.unflatten(-1, (-1, self.head_dim))
            k, v = cache.k_PRSD, cache.v_PRSD
            q_THD = rotate_and_write(heads_TXD, rotation.cos_TE, rotation.sin_TE, k, v, paged, backend=self.backend)
            return q_THD, q_THD
        num_main = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        heads_TXD = projected[:, :num_main].unflatten(-1, (-1, self.head_dim))
        qk_TXD, v_TRD = heads_TXD.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=1)
        norms = (self.q_norm, self.k_norm) if self.has_qk_norm else None
        q_THD, k_TRD = _norm_and_rotate(qk_TXD, self.num_heads, norms, rotation)
        if not self.has_index:
            write_cache((k_TRD, v_TRD), (cache.k_PRSD, cache.v_PRSD), paged, backend=self.backend)
            return q_THD, q_THD
        assert cache.index_k_P1SC is not None, "the cache of a layer with an index branch has index keys"
        index_TXC = projected[:, num_main:].unflatten(-1, (-1, self.index_head_dim))
        norms = (self.index_q_norm, self.index_k_norm)
        index_q_TRC, index_k_T1C = _norm_and_rotate(index_TXC, self.num_kv_heads, norms, rotation)
        caches = (cache.k_PRSD, cache.v_PRSD, cache.index_k_P1SC)
        write_cache((k_TRD, v_TRD, index_k_T1C), caches, paged, backend=self.backend)
        return q_THD, index_q_TRC


def _norm_and_rotate(
    heads_TXD: Tensor, num_queries: int, norms: tuple[RMSNorm, RMSNorm] | None, rotation: Rotation
) -> tuple[Tensor, Tensor]:
    """The first `num_queries` heads and the others, each normed by its own norm and rotated; computed in fp32."""
    x_TXD = rotate_(normed(heads_TXD, num_queries, norms), rotation).to(heads_TXD.dtype)
    return x_TXD[:, :num_queries], x_TXD[:, num_queries:]


def normed(heads_TXD: Tensor, num_queries: int, norms: tuple[RMSNorm, RMSNorm] | None) -> Tensor:
    """A copy in fp32: the first `num_queries` heads normed by the first norm, the others by the second."""
    x_TXD = heads_TXD.float()
    if norms is not None:
        counts = (num_queries, heads_TXD.shape[1] - num_queries)
        scale_XD = torch.cat([n.scale_C.expand(count, -1) for n, count in zip(norms, counts, strict=True)])
        return F.rms_norm(x_TXD, x_TXD.shape[-1:], eps=norms[0].eps).mul_(scale_XD)
    return x_TXD.clone() if x_TXD is heads_TXD else x_TXD
