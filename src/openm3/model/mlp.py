"""The gated feed-forward network, SwiGLU (arXiv 2002.05202). T tokens, C hidden size."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from openm3.config import ModelConfig
from openm3.model.linear import FusedLinear


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.fused = (FusedLinear(self.gate_proj, self.up_proj), FusedLinear(self.down_proj))

    def forward(self, x_TC: Tensor) -> Tensor:
        gate_up, down = self.fused
        gate, up = gate_up(x_TC).chunk(2, dim=-1)
        return down(F.silu(gate) * up)
