"""A layer's experts with gradients. Letters: T tokens, C hidden size, E experts, K experts of a token, I inner size,
N = T * K, n the tokens of one expert.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.config import ModelConfig, MoEConfig, SwigluOAI
from openm3.kernels.moe import choose_experts
from openm3.kernels.swiglu import swiglu_oai
from openm3.model.linear import Linear
from openm3.model.mlp import MLP


class Router(Linear):
    """The logits of all experts, fp32, by the same sums as `SparseMoE.router_logits`."""

    def forward(self, x_TC: Tensor) -> Tensor:
        return F.linear(x_TC.double(), self.weight.double()).float()


class StackedExperts(nn.Module):
    """The weights of all experts of a layer: one parameter a kind.

    So every parameter has a gradient in every process, whichever experts its tokens have chosen, and sharding cuts
    between experts.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        moe = cast(MoEConfig, config.moe)
        self.swiglu = cast(SwigluOAI, config.swiglu)
        count, inner, hidden = moe.num_local_experts, moe.expert_intermediate_size, config.hidden_size
        self.w1 = nn.Parameter(torch.empty(count, inner, hidden))
        self.w2 = nn.Parameter(torch.empty(count, hidden, inner))
        self.w3 = nn.Parameter(torch.empty(count, inner, hidden))

    def forward(self, x_TC: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
        """fp32 `[T, C]`: the sum of each token's experts, by their weights."""
        ids_N, order_N = ids_TK.flatten().sort(stable=True)
        token_N = order_N // ids_TK.shape[1]
        counts = torch.bincount(ids_N, minlength=len(self.w1)).tolist()
        parts = zip(
            x_TC[token_N].split(counts),
            weights_TK.flatten()[order_N, None].split(counts),
            *(weight.unbind() for weight in (self.w1, self.w2, self.w3)),
            strict=True,
        )
        outs = []
        for x_nC, weight_n1, w1_IC, w2_CI, w3_IC in parts:
            hidden_nI = swiglu_oai(F.linear(x_nC, w1_IC), F.linear(x_nC, w3_IC), self.swiglu) * weight_n1
            outs.append(F.linear(hidden_nI.to(x_TC.dtype), w2_CI))
        return torch.zeros(x_TC.shape, device=x_TC.device).index_add(0, token_N, torch.cat(outs).float())


class TrainableMoE(nn.Module):
    """`model.moe.SparseMoE` with gradients, and its parameters under the same names but for the stacked experts.

    The bias by which experts are chosen has no gradient: `balance` moves it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.moe = cast(MoEConfig, config.moe)
        self.gate = Router(config.hidden_size, self.moe.num_local_experts, bias=False)
        self.e_score_correction_bias: Tensor
        self.register_buffer("e_score_correction_bias", torch.zeros(self.moe.num_local_experts))
        self.experts = StackedExperts(config)
        self.shared_experts = MLP(config.hidden_size, self.moe.shared_intermediate_size, config.swiglu)

    def forward(self, x_TC: Tensor, stream_TC: Tensor) -> tuple[Tensor, Tensor]:
        """The stream with the result added to it, and how many tokens chose each expert, int64 `[E]`."""
        logits_TE = self.gate(x_TC)
        count, scale = self.moe.num_experts_per_tok, self.moe.routed_scaling_factor
        with torch.no_grad():
            ids_TK, _ = choose_experts(logits_TE, self.e_score_correction_bias, count, scale)
        chosen_TK = logits_TE.sigmoid().gather(1, ids_TK)
        weights_TK = chosen_TK * (scale / chosen_TK.sum(-1, keepdim=True))
        stream_TC = self.shared_experts(x_TC, stream_TC) + self.experts(x_TC, ids_TK, weights_TK)
        return stream_TC, torch.bincount(ids_TK.flatten(), minlength=self.moe.num_local_experts)

    @torch.no_grad()
    def balance(self, load_E: Tensor, rate: float) -> None:
        """Makes experts that had less than the mean of the tokens easier to choose, and the others harder.

        The rule without a loss of its own, arXiv 2408.15664, which the published `e_score_correction_bias` is from.
        """
        self.e_score_correction_bias += rate * torch.sign(load_E.float().mean() - load_E)
