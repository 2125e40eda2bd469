"""A layer's experts. Letters: T tokens, C hidden size, E experts."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.config import ModelConfig, MoEConfig, SwigluOAI
from openm3.kernels.moe import PackedExperts, choose_experts
from openm3.model.linear import FusedLinear, Linear
from openm3.model.mlp import MLP
from openm3.model.parallel import Parallel


class Expert(nn.Module):
    """The weights of one expert, under their published names: w1 gate, w3 up, w2 down."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.w1 = Linear(hidden_size, intermediate_size, bias=False)
        self.w2 = Linear(intermediate_size, hidden_size, bias=False)
        self.w3 = Linear(hidden_size, intermediate_size, bias=False)
        self.fused = (FusedLinear(self.w1, self.w3), FusedLinear(self.w2))


class SparseMoE(nn.Module):
    """A few of many experts, chosen by a router, and one expert that every token takes.

    Args:
        config: the model's, with experts.
        backend: kernel backend.
        parallel: of several processes, which have the experts among them; the result is then this one's share.
    """

    def __init__(self, config: ModelConfig, backend: str, parallel: Parallel | None = None) -> None:
        super().__init__()
        moe, swiglu = cast(MoEConfig, config.moe), cast(SwigluOAI, config.swiglu)
        self.moe, self.swiglu, self.backend = moe, swiglu, backend
        self.gate = Linear(config.hidden_size, moe.num_local_experts, bias=False)
        self.e_score_correction_bias = nn.Parameter(torch.zeros(moe.num_local_experts))
        mine = range(moe.num_local_experts) if parallel is None else parallel.experts(moe.num_local_experts)
        self._span = (mine.start, moe.num_local_experts)
        self.experts = nn.ModuleDict({str(e): Expert(config.hidden_size, moe.expert_intermediate_size) for e in mine})
        self.shared_experts = MLP(config.hidden_size, moe.shared_intermediate_size, swiglu)
        self._joined: PackedExperts | None = None

    def gather(self) -> None:
        """Joins the experts for inference, when all are loaded."""
        self._joined = self._join()

    def forward(self, x_TC: Tensor, stream_TC: Tensor) -> Tensor:
        """The stream with the result added to it."""
        stream_TC = self.shared_experts(x_TC, stream_TC)
        bias_E, scale = self.e_score_correction_bias, self.moe.routed_scaling_factor
        ids, weights = choose_experts(
            self.router_logits(x_TC), bias_E, self.moe.num_experts_per_tok, scale, backend=self.backend
        )
        experts = self._joined or self._join()
        return experts(x_TC, ids, weights, add_to=stream_TC)

    def router_logits(self, x_TC: Tensor) -> Tensor:
        """fp32 `[T, E]`. Summed in fp64, so that the tokens around it move no token to another expert."""
        return F.linear(x_TC.double(), self.gate.weight.double()).float()

    def _join(self) -> PackedExperts:
        experts = cast(list[Expert], list(self.experts.values()))
        packed = [linear.packed for expert in experts for linear in expert.fused if linear.packed is not None]
        if packed:
            return PackedExperts.of(
                packed[0::2], packed[1::2], self.gate.in_features, self.swiglu, self._span, self.backend
            )
        weights = ((expert.w1.weight, expert.w2.weight, expert.w3.weight) for expert in experts)
        return PackedExperts(weights, self.swiglu, backend=self.backend, span=self._span)
