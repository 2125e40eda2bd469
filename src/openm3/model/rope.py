"""Rotary positions (arXiv 2104.09864), pairs (i, i + E) as in the published checkpoints.

Letters: T tokens, X heads, D head size, E pairs: half of the elements that are rotated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.config import ModelConfig, RopeScaling


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of a batch's positions, fp32 `[T, E]`, the same in every layer."""

    cos_TE: Tensor
    sin_TE: Tensor

    def thinned(self, num_pairs: int) -> Rotation:
        """That of a head with fewer pairs, which divide ours or are none: each n-th angle.

        Those are the angles of a head of that size with the same theta.
        """
        step = self.cos_TE.shape[1] // num_pairs if num_pairs else 1
        stop = None if num_pairs else 0
        return Rotation(self.cos_TE[:, :stop:step], self.sin_TE[:, :stop:step])


def rotation(inv_freq_E: Tensor, positions_T: Tensor, amplitude: float = 1.0) -> Rotation:
    """The rotation of tokens at `positions_T` (int64), times `amplitude`.

    Angles are fp64: at position 1,000,000 those of fp32 are wrong by up to 0.03, and differently for each position.
    """
    angle_TE = positions_T.double()[:, None] * inv_freq_E.double()
    return Rotation((amplitude * angle_TE.cos()).float(), (amplitude * angle_TE.sin()).float())


def rotate_(x_TXD: Tensor, rotated: Rotation) -> Tensor:
    """Rotates the first 2E elements of every head in place; x is fp32."""
    num_pairs = rotated.cos_TE.shape[1]
    cos_T1E, sin_T1E = rotated.cos_TE[:, None], rotated.sin_TE[:, None]
    first, second = x_TXD[..., :num_pairs], x_TXD[..., num_pairs : 2 * num_pairs]
    turned = first * cos_T1E - second * sin_T1E
    second.mul_(cos_T1E).addcmul_(first, sin_T1E)
    first.copy_(turned)
    return x_TXD


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """fp32 `[E]`: theta^(-i/E), stretched by `rope_scaling` where the configuration asks for it."""
    rotary_dim = config.rotary_dim or config.head_dim
    exponents = torch.arange(0, rotary_dim, 2, device="cpu").float() / rotary_dim
    inv_freq_E = 1.0 / config.rope_theta**exponents
    return inv_freq_E if config.rope_scaling is None else _stretch(inv_freq_E, config.rope_scaling)


def _stretch(inv_freq_E: Tensor, scaling: RopeScaling) -> Tensor:
    """The `llama3` rule: long wavelengths are divided by the factor, short ones kept, those between blended."""
    turns_E = scaling.original_max_position_embeddings * inv_freq_E / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep_E = ((turns_E - low) / (high - low)).clamp(0, 1)
    return inv_freq_E * (keep_E + (1 - keep_E) / scaling.factor)
