"""The decoder network. Letters: T packed tokens, L rows whose logits are wanted, C hidden size, V vocabulary.

The stream between layers and the norms are fp32, whatever the weights' dtype: many small additions in bf16 would
lose more than all its matrix products, and they cost nothing beside them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from openm3.config import ModelConfig, SparseConfig
from openm3.context.extend import Extension
from openm3.kernels.linear import Chain, Link
from openm3.model.attention import Attention
from openm3.model.batch import Batch
from openm3.model.cache import KVCache, LayerCache
from openm3.model.clamped import ClampedAttention, ClampedRotation
from openm3.model.linear import Embedding, FusedLinear, Linear
from openm3.model.mlp import MLP
from openm3.model.moe import Expert, SparseMoE
from openm3.model.norm import RMSNorm
from openm3.model.parallel import Parallel
from openm3.model.rope import Rotation, inverse_frequencies, rotation


class DecoderLayer(nn.Module):
    """Attention, then an MLP or experts, each behind an RMSNorm, each added to the stream."""

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        sparse: SparseConfig | None,
        backend: str,
        parallel: Parallel | None,
        extension: Extension | None,
    ) -> None:
        super().__init__()
        self.backend, self.has_experts, self._parallel = backend, config.has_experts(layer), parallel
        self.input_layernorm = RMSNorm(config.hidden_size, config)
        attention = ClampedAttention if extension is not None and extension.method == "clamped" else Attention
        self.self_attn = attention(config, sparse, config.has_index(layer), backend)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config)
        if self.has_experts:
            self.block_sparse_moe = SparseMoE(config, backend, parallel)
        else:
            self.mlp = MLP(config.hidden_size, config.intermediate_size, config.swiglu)
        self._chains: tuple[Chain, ...] | None = None

    def chain(self) -> None:
        """Joins what is before attention, and what is behind it, where that is one call: when all is packed."""
        if self.has_experts or self.mlp.swiglu is not None or self._parallel is not None:
            return
        packed = [linear.packed for linear in (*self.self_attn.fused, *self.mlp.fused) if linear.packed is not None]
        if len(packed) < len(self.self_attn.fused) + len(self.mlp.fused):
            return
        project, out, *index, gate_up, down = packed
        norms = [(norm.scale_C.detach(), norm.eps) for norm in (self.input_layernorm, self.post_attention_layernorm)]
        before = Chain(Link(project, *norms[0]), backend=self.backend)
        behind = Chain(Link(out, adds=True), Link(gate_up, *norms[1]), Link(down, adds=True), backend=self.backend)
        chains = before, behind, *(Chain(Link(linear, *norms[0]), backend=self.backend) for linear in index)
        if all(chain.is_native for chain in chains):
            self._chains = chains

    def forward(self, x_TC: Tensor, batch: Batch, cache: LayerCache, rotation: Rotation) -> Tensor:
        if self._chains is not None:
            before, behind, *index = self._chains
            index_TI = index[0](x_TC) if index else None
            return behind(x_TC, self.self_attn.attend(before(x_TC), index_TI, batch, cache, rotation))
        dtype = cache.k_PRSD.dtype
        normed_TC = self.input_layernorm(x_TC, dtype, self.backend)
        x_TC = self._added(x_TC, lambda stream_TC: self.self_attn(normed_TC, stream_TC, batch, cache, rotation))
        normed_TC = self.post_attention_layernorm(x_TC, dtype, self.backend)
        feed_forward = self.block_sparse_moe if self.has_experts else self.mlp
        return self._added(x_TC, lambda stream_TC: feed_forward(normed_TC, stream_TC))

    def _added(self, stream_TC: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
        """The stream with what a block adds to it; of several processes, with the sum of their shares."""
        if self._parallel is None:
            return add(stream_TC)
        return stream_TC + self._parallel.sum(add(torch.zeros_like(stream_TC)))


class Decoder(nn.Module):
    """A causal language model over a paged cache. Parameter names are the checkpoint's without `model.` in front.

    Args:
        config: the model's.
        sparse: None for dense attention, else how blocks are chosen. A model with an index branch has its own way,
            which is what None means there.
        backend: kernel backend, see `kernels/backend.py`.
        parallel: of several processes, which compute the model together; this one then has its part of the weights, and
            the first one alone the head.
        extension: how positions past the trained window are read; None leaves them as they are.

    Attributes:
        inv_freq_E: fp32, of the rotary positions in use.
    """

    def __init__(
        self,
        config: ModelConfig,
        sparse: SparseConfig | None = None,
        backend: str = "torch",
        parallel: Parallel | None = None,
        extension: Extension | None = None,
    ) -> None:
        super().__init__()
        if parallel is not None:
            config = parallel.part_of(config)
        self.config, self.backend, self.extension = config, backend, extension
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, i, _sparse_of(config, i, sparse, extension), backend, parallel, extension)
            for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config)
        self.fused: tuple[FusedLinear, ...] = ()
        self.inv_freq_E = inverse_frequencies(config)
        if extension is not None:
            self.inv_freq_E = extension.frequencies(self.inv_freq_E)
        if parallel is None or parallel.rank == 0:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
            self.fused = (FusedLinear(self.lm_head, exact=True),)
            if config.tie_word_embeddings:
                self.lm_head.weight = self.embed_tokens.weight

    def pack(self) -> Decoder:
        """Lays all weights out for inference; call once, after loading."""
        for linear in self.fused_linears():
            linear.pack(*(part.weight for part in linear.parts), backend=self.backend)
        return self.finish()

    def fused_linears(self) -> Iterator[FusedLinear]:
        """Everything that is to be packed, in the order of the layers, the head last."""
        for module in self.layers.modules():
            if isinstance(module, (Attention, MLP)) or (isinstance(module, Expert) and self.backend != "reference"):
                yield from module.fused
        yield from self.fused

    def finish(self) -> Decoder:
        """Joins and prepares what is packed; call once, after all of it."""
        for module in self.modules():
            if isinstance(module, SparseMoE):
                module.gather()
            elif isinstance(module, RMSNorm):
                module.pack()
        for layer in self.layers:
            cast(DecoderLayer, layer).chain()
        self.inv_freq_E = self.inv_freq_E.to(self.embed_tokens.weight.device)
        return self.eval()

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Writes the batch's keys and values to the cache.

        Returns:
            fp32 `[L, V]`: next-token logits of the rows `batch.logit_rows_L`.
        """
        x_TC = self.hidden_states(batch, cache)
        if batch.pooling is not None:
            batch.pooling.take(self.norm(x_TC[batch.pooling.row_T.to(x_TC.device)], torch.float32, self.backend))
        x_LC = x_TC[batch.logit_rows_L]
        return self.fused[0](self.norm(x_LC, cache.layers[0].k_PRSD.dtype, self.backend)).float()

    def hidden_states(self, batch: Batch, cache: KVCache) -> Tensor:
        """fp32 `[T, C]`: the stream after the last layer, before the final norm."""
        x_TC: Tensor = self.embed_tokens(batch.token_ids_T).float()
        if batch.seen_rows_M is not None and batch.seen_MC is not None:
            x_TC = x_TC.index_copy(0, batch.seen_rows_M, batch.seen_MC)
        rotated = self._rotation(batch.paged.positions_on(self.inv_freq_E.device))
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x_TC = layer(x_TC, batch, layer_cache, rotated)
        return x_TC

    def _rotation(self, positions_T: Tensor) -> Rotation:
        extension = self.extension
        if extension is None or extension.method != "clamped":
            return rotation(self.inv_freq_E, positions_T, extension.amplitude if extension else 1.0)
        return ClampedRotation.of(extension, self.inv_freq_E, positions_T)


def _sparse_of(
    config: ModelConfig, layer: int, sparse: SparseConfig | None, extension: Extension | None
) -> SparseConfig | None:
    """How a layer chooses blocks; None where it reads all. Where distances are clamped, no layer does."""
    if config.index is not None:
        if sparse not in (None, config.index.sparse):
            raise ValueError(f"sparse: expected the model's own {config.index.sparse}, got {sparse}")
        sparse = config.index.sparse
    if extension is not None and extension.method == "clamped":
        if sparse is None:
            raise ValueError("sparse: clamped distances need chosen blocks")
        return extension.selection(sparse)
    return sparse if config.has_index(layer) or config.scans_own_keys(layer) else None


def empty_decoder(
    config: ModelConfig,
    sparse: SparseConfig | None = None,
    backend: str = "torch",
    parallel: Parallel | None = None,
    extension: Extension | None = None,
) -> Decoder:
    """A decoder whose parameters have shapes and no memory, for a loader to fill."""
    with torch.device("meta"), collector_paused():
        return Decoder(config, sparse, backend, parallel, extension)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keeps Python's cycle collector from looking through thousands of new modules again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
