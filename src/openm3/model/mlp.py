"""The gated feed-forward network. T tokens, C hidden size."""

from __future__ import annotations

from torch import Tensor, nn

from openm3.config import SwigluOAI
from openm3.kernels.swiglu import swiglu_oai
from openm3.model.linear import FusedLinear, Linear


class MLP(nn.Module):
    """down(act(gate(x), up(x))): SwiGLU (arXiv 2002.05202), or M3's activation where `swiglu` has its numbers."""

    def __init__(self, hidden_size: int, intermediate_size: int, swiglu: SwigluOAI | None) -> None:
        super().__init__()
        self.swiglu = swiglu
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)
        gate_up = FusedLinear(self.gate_proj, self.up_proj, gated=swiglu is None)
        self.fused = (gate_up, FusedLinear(self.down_proj))

    def forward(self, x_TC: Tensor, stream_TC: Tensor) -> Tensor:
        """The stream with the result added to it."""
        gate_up, down = self.fused
        hidden = gate_up(x_TC)
        if self.swiglu is not None:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = swiglu_oai(gate, up, self.swiglu)
        return down(hidden, add_to=stream_TC)
