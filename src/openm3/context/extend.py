"""Positions past the trained window, without training.

A model trained with positions 0 to L - 1 has never seen the rotary angles of larger ones. The rules here keep what it
is asked about within what it knows; docs/extend.md has the equations and how they compare.

- `ntk`: a larger base of the rotary angles stretches long wavelengths most and short ones hardly (NTK-aware).
- `yarn`: long wavelengths are divided by the factor, short ones kept, those between blended, and the softmax gets
  a temperature (arXiv 2309.00071).
- `clamped`: the blocks just before a query have their true distance, all blocks further away the same one, just past
  them (InfLLM, arXiv 2402.04617); of those the query reads the ones it chooses.

The rules are pure functions of the window, so that a token's keys never depend on how long its request has become.

Letters: E pairs, half of the elements that are rotated; T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from openm3.config import EngineConfig, ModelConfig, SparseConfig

if TYPE_CHECKING:
    from torch import Tensor

# arXiv 2309.00071, section 3.2: below the first number of turns in the trained window a wavelength is divided, above
# the second it is kept.
_YARN_SLOW, _YARN_FAST = 1.0, 32.0


@dataclass(frozen=True, kw_only=True)
class Extension:
    """How a model reads positions past its trained window.

    Attributes:
        method: the rule.
        trained: tokens of the trained window.
        window: tokens of the window in use.
        block_size: tokens in a block.
        near_blocks: of `clamped`: the query's own block and those before it that have their true distance.
    """

    method: Literal["ntk", "yarn", "clamped"]
    trained: int
    window: int
    block_size: int
    near_blocks: int = 0

    @classmethod
    def of(cls, config: EngineConfig, model: ModelConfig) -> Extension | None:
        """What a resolved configuration asks for (see `EngineConfig.for_model`); None leaves positions as they are."""
        if config.extend == "none" or config.extend == "auto":
            return None
        block_size = config.blocks.index_block_size
        trained = model.max_position_embeddings
        return cls(
            method=config.extend,
            trained=trained,
            window=config.max_context or trained,
            block_size=block_size,
            near_blocks=(config.near_window or 0) // block_size,
        )

    @property
    def factor(self) -> float:
        """How many times the trained window is in the one in use, at least 1."""
        return max(1.0, self.window / self.trained)

    @property
    def amplitude(self) -> float:
        """What rotated queries and keys are multiplied by: scores get its square, YaRN's 1 / temperature."""
        return 0.1 * math.log(self.factor) + 1 if self.method == "yarn" else 1.0

    @property
    def far_distance(self) -> int:
        """How far behind a query of `clamped` the first token of every far block stands; its last one stands just
        past the near blocks."""
        return (self.near_blocks + 1) * self.block_size - 1

    def frequencies(self, inv_freq_E: Tensor) -> Tensor:
        """The rotary frequencies in use, from the model's own."""
        if self.method == "ntk":
            return ntk(inv_freq_E, self.factor)
        if self.method == "yarn":
            return yarn(inv_freq_E, self.factor, self.trained)
        return inv_freq_E

    def far_positions(self, positions_T: Tensor) -> Tensor:
        """Where the keys of tokens stand as seen from a far query, which stands at 0: before it, by their place in
        their block."""
        return positions_T % self.block_size - self.far_distance

    def selection(self, sparse: SparseConfig) -> SparseConfig:
        """Which blocks a query of `clamped` reads: the near ones, and `index_topk_blocks` far ones on top.

        The first block is always among the far ones: softmax sends there what it has no use for (arXiv 2309.17453).
        """
        return replace(
            sparse,
            index_local_blocks=self.near_blocks,
            index_topk_blocks=self.near_blocks + sparse.index_topk_blocks,
            index_init_blocks=max(1, sparse.index_init_blocks),
        )


def ntk(inv_freq_E: Tensor, factor: float) -> Tensor:
    """Frequencies of a base that is larger by factor^(E / (E - 1)): the slowest one is divided by the factor.

    ("NTK-aware scaled RoPE", bloc97 2023; with 2E = d the exponent is d / (d - 2).)
    """
    import torch

    num_pairs = len(inv_freq_E)
    exponent_E = torch.arange(num_pairs, device=inv_freq_E.device).double() / max(1, num_pairs - 1)
    return (inv_freq_E / factor**exponent_E).float()


def yarn(inv_freq_E: Tensor, factor: float, trained: int) -> Tensor:
    """NTK-by-parts (arXiv 2309.00071, section 3.2): by how often a pair turns within the trained window.

    Between the two bounds a pair is blended by the logarithm of its turns, which is linear in its place, as in the
    authors' code.
    """
    turns_E = trained * inv_freq_E / (2 * math.pi)
    keep_E = ((turns_E / _YARN_SLOW).log() / math.log(_YARN_FAST / _YARN_SLOW)).clamp(0, 1)
    return inv_freq_E * (keep_E + (1 - keep_E) / factor)
