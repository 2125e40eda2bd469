"""Rotary positions (arXiv 2104.09864), pairs (i, i + D/2) as in the published checkpoints. T tokens, D head size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.config import ModelConfig, RopeScaling


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of a batch's positions, fp32 `[T, D/2]`, the same in every layer."""

    cos_TE: Tensor
    sin_TE: Tensor


def rotation(inv_freq_E: Tensor, positions_T: Tensor) -> Rotation:
    """The rotation of tokens at `positions_T` (int64)."""
    angle_TE = positions_T.float()[:, None] * inv_freq_E
    return Rotation(angle_TE.cos(), angle_TE.sin())


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """fp32 `[D/2]`: theta^(-2i/D), stretched by `rope_scaling` where the configuration asks for it."""
    exponents = torch.arange(0, config.head_dim, 2, device="cpu").float() / config.head_dim
    inv_freq_E = 1.0 / config.rope_theta**exponents
    return inv_freq_E if config.rope_scaling is None else _stretch(inv_freq_E, config.rope_scaling)


def _stretch(inv_freq_E: Tensor, scaling: RopeScaling) -> Tensor:
    """The `llama3` rule: long wavelengths are divided by the factor, short ones kept, those between blended."""
    turns_E = scaling.original_max_position_embeddings * inv_freq_E / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep_E = ((turns_E - low) / (high - low)).clamp(0, 1)
    return inv_freq_E * (keep_E + (1 - keep_E) / scaling.factor)
