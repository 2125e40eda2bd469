"""The gated feed-forward network, SwiGLU (arXiv 2002.05202). T tokens, C hidden size."""

from __future__ import annotations

from torch import Tensor, nn

from openm3.config import ModelConfig
from openm3.model.linear import FusedLinear


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.fused = (FusedLinear(self.gate_proj, self.up_proj, gated=True), FusedLinear(self.down_proj))

    def forward(self, x_TC: Tensor, stream_TC: Tensor) -> Tensor:
        """The stream with the result added to it."""
        gated, down = self.fused
        return down(gated(x_TC), add_to=stream_TC)
