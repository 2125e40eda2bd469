"""How much memory a model takes, from its configuration and the headers of its files. Letters as in the config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from openm3.config import ModelConfig
from openm3.model.cache import page_bytes
from openm3.model.decoder import empty_decoder
from openm3.model.weights import stays_fp32


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes beside the program itself.

    Attributes:
        weights: the parameters, laid out for inference.
        cache: keys, values and index keys of one context.
        step: the largest tensors of one layer, for a step of `max_batch_tokens`.
    """

    weights: int
    cache: int
    step: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.step


def parameter_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Every parameter and its shape; no memory is taken."""
    return {name: parameter.shape for name, parameter in empty_decoder(config).named_parameters()}


def active_parameters(config: ModelConfig, shapes: dict[str, torch.Size]) -> int:
    """Parameters that one token passes through, without embedding and head."""
    active = sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith(("embed_tokens", "lm_head")))
    if config.moe is None:
        return active
    routed = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    return active - routed + routed * config.moe.num_experts_per_tok // config.moe.num_local_experts


def plan_memory(
    config: ModelConfig,
    shapes: dict[str, torch.Size],
    *,
    context: int,
    page_size: int,
    dtype: torch.dtype,
    batch_tokens: int,
    far: bool = False,
    packed_bits: Mapping[str, float] = MappingProxyType({}),
) -> MemoryPlan:
    """The memory of one context.

    Args:
        config, shapes: the model, see `parameter_shapes`.
        context: tokens of prompt and answer.
        page_size: tokens of a page.
        dtype: of matrices and cache.
        batch_tokens: the most tokens of a step.
        far: whether the cache has keys for far queries too, as clamped distances need.
        packed_bits: the parameters that stay packed, see `packed_bits` in `model/weights.py`.
    """

    def parameter_bytes(name: str, shape: torch.Size) -> float:
        fp32 = len(shape) == 1 or stays_fp32(name)
        return math.prod(shape) * (4 if fp32 else packed_bits.get(name, 8 * dtype.itemsize) / 8)

    weights = sum(parameter_bytes(name, shape) for name, shape in shapes.items())
    if config.tie_word_embeddings:
        head = torch.Size((config.vocab_size, config.hidden_size))  # has a layout of its own
        weights += parameter_bytes("lm_head.weight", head)
    pages = -(-context // page_size)
    return MemoryPlan(
        weights=int(weights),
        cache=pages * page_bytes(config, page_size, dtype, far=far),
        step=min(batch_tokens, context) * _token_bytes(config, dtype),
    )


def _token_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of a token within a layer: the stream, and the larger of attention's and the feed-forward's tensors."""
    heads = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    attention = heads * (2 * dtype.itemsize + 3 * 4)
    inner = config.intermediate_size
    if config.moe is not None:
        inner = max(inner, config.moe.num_experts_per_tok * config.moe.expert_intermediate_size)
    feed_forward = inner * (2 * dtype.itemsize + 3 * 4)
    return config.hidden_size * (4 + 2 * dtype.itemsize) + max(attention, feed_forward)
