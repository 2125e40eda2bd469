"""The decoder network. Letters: T packed tokens, L rows whose logits are wanted, C hidden size, V vocabulary.

The stream between layers and the norms are fp32, whatever the weights' dtype: many small additions in bf16 would
lose more than all its matrix products, and they cost nothing beside them.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from openm3.config import ModelConfig, SparseConfig
from openm3.kernels.paged import PagedBatch
from openm3.kernels.rms_norm import rms_norm
from openm3.model.attention import Attention
from openm3.model.batch import Batch
from openm3.model.cache import KVCache, LayerCache
from openm3.model.linear import FusedLinear
from openm3.model.mlp import MLP
from openm3.model.rope import Rotation, inverse_frequencies, rotation


class DecoderLayer(nn.Module):
    """Attention and MLP, each behind an RMSNorm, each added to the stream."""

    def __init__(self, config: ModelConfig, sparse: SparseConfig | None, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config, sparse, backend)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_TC: Tensor, paged: PagedBatch, cache: LayerCache, rotation: Rotation) -> Tensor:
        dtype = cache.k_PRSD.dtype
        normed_TC = normalize(self.input_layernorm, x_TC, dtype, self.backend)
        x_TC = self.self_attn(normed_TC, x_TC, paged, cache, rotation)
        normed_TC = normalize(self.post_attention_layernorm, x_TC, dtype, self.backend)
        return cast(Tensor, self.mlp(normed_TC, x_TC))


def normalize(norm: nn.RMSNorm, x_TC: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    """`norm` by the kernel, in the dtype that the next matrix product takes."""
    return rms_norm(x_TC, norm.weight, cast(float, norm.eps), dtype, backend=backend)


class Decoder(nn.Module):
    """A causal language model over a paged cache. Parameter names are the checkpoint's without `model.` in front.

    Args:
        config: the model's.
        sparse: None for dense attention, else how blocks are chosen.
        backend: kernel backend, see `kernels/backend.py`.
    """

    def __init__(self, config: ModelConfig, sparse: SparseConfig | None = None, backend: str = "torch") -> None:
        super().__init__()
        self.config, self.backend = config, backend
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, sparse, backend) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._head = FusedLinear(self.lm_head)
        self._inv_freq_E = inverse_frequencies(config)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def pack(self) -> Decoder:
        """Lays all weights out for inference; call once, after loading."""
        for module in self.modules():
            if isinstance(module, (Attention, MLP)):
                for linear in module.fused:
                    linear.pack(backend=self.backend)
        self._head.pack(exact=True, backend=self.backend)
        self._inv_freq_E = self._inv_freq_E.to(self.norm.weight.device)
        return self

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Writes the batch's keys and values to the cache.

        Returns:
            fp32 `[L, V]`: next-token logits of the rows `batch.logit_rows_L`.
        """
        x_LC = self.hidden_states(batch, cache)[batch.logit_rows_L]
        return self._head(normalize(self.norm, x_LC, cache.layers[0].k_PRSD.dtype, self.backend)).float()

    def hidden_states(self, batch: Batch, cache: KVCache) -> Tensor:
        """fp32 `[T, C]`: the stream after the last layer, before the final norm."""
        x_TC: Tensor = self.embed_tokens(batch.token_ids_T).float()
        rotated = rotation(self._inv_freq_E, batch.paged.positions_T.to(self._inv_freq_E.device))
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x_TC = layer(x_TC, batch.paged, layer_cache, rotated)
        return x_TC


def empty_decoder(config: ModelConfig, sparse: SparseConfig | None = None, backend: str = "torch") -> Decoder:
    """A decoder whose parameters have shapes and no memory, for a loader to fill."""
    with torch.device("meta"):
        return Decoder(config, sparse, backend)
