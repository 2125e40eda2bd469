"""Grouped-query attention over the paged cache, dense or over chosen blocks.

Letters: T packed tokens, C hidden size, H query heads, R key/value heads, D head size.
"""

from __future__ import annotations

from torch import Tensor, nn

from openm3.config import ModelConfig, SparseConfig
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.paged import PagedBatch
from openm3.kernels.rotate import rotate_and_write
from openm3.kernels.select_blocks import select_blocks
from openm3.kernels.sparse_attention import sparse_attention
from openm3.model.cache import LayerCache
from openm3.model.linear import FusedLinear
from openm3.model.rope import Rotation


class Attention(nn.Module):
    """One layer's attention.

    Args:
        config: the model's.
        sparse: None reads every block; else blocks are chosen by the model's own keys, the score of a block being
            the maximum over the group's query heads and the block's tokens.
        backend: kernel backend.
    """

    def __init__(self, config: ModelConfig, sparse: SparseConfig | None, backend: str) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.sparse, self.backend = config.head_dim, sparse, backend
        self.q_proj = nn.Linear(config.hidden_size, self.num_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=False)
        self.fused = (FusedLinear(self.q_proj, self.k_proj, self.v_proj), FusedLinear(self.o_proj))

    def forward(
        self, x_TC: Tensor, stream_TC: Tensor, paged: PagedBatch, cache: LayerCache, rotation: Rotation
    ) -> Tensor:
        """The stream with the result added to it."""
        qkv, out = self.fused
        heads_TXD = qkv(x_TC).unflatten(-1, (-1, self.head_dim))
        k, v, backend = cache.k_PRSD, cache.v_PRSD, self.backend
        q_THD = rotate_and_write(heads_TXD, rotation.cos_TE, rotation.sin_TE, k, v, paged, backend=backend)
        if self.sparse is None:
            mixed_THD = dense_attention(q_THD, k, v, paged, backend=backend)
        else:
            block_ids_TRN = select_blocks(q_THD, k, paged, self.sparse, num_groups=self.num_kv_heads, backend=backend)
            mixed_THD = sparse_attention(q_THD, k, v, block_ids_TRN, paged, backend=backend)
        return out(mixed_THD.flatten(1), add_to=stream_TC)
