"""A layer's experts. Letters: T tokens, C hidden size, E experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.config import ModelConfig, MoEConfig, SwigluOAI
from openm3.kernels.moe import PackedExperts, Weight, choose_experts
from openm3.model.linear import held_weight, release
from openm3.model.mlp import MLP


class Expert(nn.Module):
    """The weights of one expert, under their published names: w1 gate, w3 up, w2 down."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.w2 = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.w3 = nn.Linear(hidden_size, intermediate_size, bias=False)


class SparseMoE(nn.Module):
    """A few of many experts, chosen by a router, and one expert that every token takes.

    Args:
        config: the model's, with experts.
        backend: kernel backend.
    """

    def __init__(self, config: ModelConfig, backend: str) -> None:
        super().__init__()
        moe, swiglu = cast(MoEConfig, config.moe), cast(SwigluOAI, config.swiglu)
        self.moe, self.swiglu, self.backend = moe, swiglu, backend
        self.gate = nn.Linear(config.hidden_size, moe.num_local_experts, bias=False)
        self.e_score_correction_bias = nn.Parameter(torch.zeros(moe.num_local_experts))
        self.experts = nn.ModuleList(
            Expert(config.hidden_size, moe.expert_intermediate_size) for _ in range(moe.num_local_experts)
        )
        self.shared_experts = MLP(config.hidden_size, moe.shared_intermediate_size, swiglu)
        self._packed: PackedExperts | None = None

    def pack(self, backend: str) -> None:
        """Lays the weights out for inference and lets the separate ones go."""
        self.shared_experts.pack(backend)
        self._packed = PackedExperts(self._weights(), self.swiglu, backend=backend)
        for expert in cast(list[Expert], list(self.experts)):
            for part in (expert.w1, expert.w2, expert.w3):
                release(part)

    def forward(self, x_TC: Tensor, stream_TC: Tensor) -> Tensor:
        """The stream with the result added to it."""
        stream_TC = self.shared_experts(x_TC, stream_TC)
        bias_E, scale = self.e_score_correction_bias, self.moe.routed_scaling_factor
        ids, weights = choose_experts(
            self.router_logits(x_TC), bias_E, self.moe.num_experts_per_tok, scale, backend=self.backend
        )
        experts = self._packed or PackedExperts(self._weights(), self.swiglu, backend=self.backend)
        return experts(x_TC, ids, weights, add_to=stream_TC)

    def router_logits(self, x_TC: Tensor) -> Tensor:
        """fp32 `[T, E]`. Summed in fp64, so that the tokens around it move no token to another expert."""
        return F.linear(x_TC.double(), self.gate.weight.double()).float()

    def _weights(self) -> Iterator[tuple[Weight, Weight, Weight]]:
        for expert in cast(list[Expert], list(self.experts)):
            yield held_weight(expert.w1), held_weight(expert.w2), held_weight(expert.w3)
