"""The decoder for training: the network of `model/decoder.py` with gradients, and without cache and packed weights.

Letters: T packed tokens, C hidden size, V vocabulary, L layers, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from openm3.config import ModelConfig, SparseConfig
from openm3.model.linear import Embedding, Linear
from openm3.model.mlp import MLP
from openm3.model.norm import RMSNorm
from openm3.model.rope import Rotation, inverse_frequencies, rotation
from openm3.train.attention import TrainableAttention
from openm3.train.experts import TrainableMoE
from openm3.train.packed import NOTHING, Packed

_LOGITS = 1 << 25  # computed at once; they are computed again for their gradient


class Losses(NamedTuple):
    """Sums over the tokens of a forward pass, fp32; a tuple, so that FSDP finds the tensors in it.

    Attributes:
        nll: of the targets, in nats.
        kl_L: alignment loss of each layer, the mean over groups; 0 where it has none.
        load_LE: int64, how many tokens chose each expert, a row for each layer with experts.
    """

    nll: Tensor
    kl_L: Tensor
    load_LE: Tensor


class TrainableLayer(nn.Module):
    """`model.decoder.DecoderLayer` with gradients."""

    def __init__(
        self, config: ModelConfig, layer: int, sparse: SparseConfig | None, dtype: torch.dtype, recompute: bool
    ) -> None:
        super().__init__()
        self.dtype, self.recompute, self.has_experts = dtype, recompute, config.has_experts(layer)
        self.input_layernorm = RMSNorm(config.hidden_size, config)
        self.self_attn = TrainableAttention(config, sparse, config.has_index(layer))
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config)
        if self.has_experts:
            self.block_sparse_moe = TrainableMoE(config)
        else:
            self.mlp = MLP(config.hidden_size, config.intermediate_size, config.swiglu)

    def forward(
        self, x_TC: Tensor, packed: Packed, rotation: Rotation, dense: bool, align: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The stream behind the layer, its alignment loss, and the load of its experts (`[0]` without)."""
        given = x_TC, packed, rotation, dense, align
        if self.recompute and torch.is_grad_enabled():
            again: tuple[Tensor, Tensor, Tensor] = checkpoint(self._forward, *given, use_reentrant=False)
            return again
        return self._forward(*given)

    def _forward(
        self, x_TC: Tensor, packed: Packed, rotation: Rotation, dense: bool, align: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        normed_TC = self.input_layernorm(x_TC, self.dtype, "torch")
        read_TC, kl = self.self_attn(normed_TC, packed, rotation, dense, align)
        x_TC = x_TC + read_TC
        normed_TC = self.post_attention_layernorm(x_TC, self.dtype, "torch")
        if self.has_experts:
            x_TC, load_E = self.block_sparse_moe(normed_TC, x_TC)
            return x_TC, kl, load_E
        return self.mlp(normed_TC, x_TC), kl, torch.zeros(0, dtype=torch.int64, device=x_TC.device)


class TrainableDecoder(nn.Module):
    """A causal language model with gradients. Parameter names are those of `model.decoder.Decoder`, experts stacked.

    The stream between layers, norms and routers are fp32; all other products are in `dtype`, in which FSDP gives the
    parameters (`train/sharding.py`), or which is theirs.

    Args:
        config: the model's.
        sparse: how layers without an index branch choose blocks; None: they read everything.
        dtype: of products.
        recompute: keep a layer's input alone, and compute the layer again for its gradient.

    Attributes:
        config, dtype: as given.
        chooses_blocks: whether any layer does.
    """

    def __init__(
        self,
        config: ModelConfig,
        sparse: SparseConfig | None = None,
        dtype: torch.dtype = torch.float32,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        blocks = [sparse_of(config, layer, sparse) for layer in range(config.num_hidden_layers)]
        self.chooses_blocks = any(blocks)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            TrainableLayer(config, i, of_layer, dtype, recompute) for i, of_layer in enumerate(blocks)
        )
        self.norm = RMSNorm(config.hidden_size, config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.inv_freq_E = inverse_frequencies(config)

    def forward(self, packed: Packed, dense: bool = False, align: bool = False) -> Losses:
        """The losses of these sequences.

        Args:
            packed: the tokens.
            dense: layers that choose blocks read them all.
            align: compute the alignment losses, over the blocks that are read.
        """
        x_TC, kl_L, load_LE = self.hidden_states(packed, dense, align)
        nll = x_TC.new_zeros(())
        rows = max(1, _LOGITS // self.config.vocab_size)
        for x_tC, targets_t in zip(x_TC.split(rows), packed.targets_T.split(rows), strict=True):
            if torch.is_grad_enabled():
                nll = nll + checkpoint(self._nll, x_tC, targets_t, use_reentrant=False)
            else:
                nll = nll + self._nll(x_tC, targets_t)
        return Losses(nll, kl_L, load_LE)

    def hidden_states(self, packed: Packed, dense: bool, align: bool) -> tuple[Tensor, Tensor, Tensor]:
        """fp32 `[T, C]`, the normed stream after the last layer; with the losses and loads of all layers."""
        x_TC: Tensor = self.embed_tokens(packed.token_ids_T).float()
        turned = rotation(self.inv_freq_E.to(x_TC.device), packed.positions_T)
        kls, loads = [], []
        for layer in self.layers:
            x_TC, kl, load_E = layer(x_TC, packed, turned, dense, align)
            kls.append(kl)
            if len(load_E):
                loads.append(load_E)
        none = torch.zeros(0, 0, dtype=torch.int64, device=x_TC.device)
        return self.norm(x_TC, torch.float32, "torch"), torch.stack(kls), torch.stack(loads) if loads else none

    def logits(self, x_TC: Tensor) -> Tensor:
        """fp32 `[T, V]` of normed states."""
        head = self.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        return F.linear(x_TC.to(self.dtype), head.weight).float()

    def experts(self) -> list[TrainableMoE]:
        """Those of the layers that have some, in the order of `Losses.load_LE`."""
        return [module for module in self.modules() if isinstance(module, TrainableMoE)]

    def _nll(self, x_TC: Tensor, targets_T: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(x_TC), targets_T, ignore_index=NOTHING, reduction="sum")


def sparse_of(config: ModelConfig, layer: int, sparse: SparseConfig | None) -> SparseConfig | None:
    """How a layer chooses blocks; None where it reads all."""
    if config.index is not None:
        sparse = config.index.sparse
    return sparse if config.has_index(layer) or config.scans_own_keys(layer) else None
