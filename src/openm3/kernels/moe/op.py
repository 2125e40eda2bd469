"""Contract of the experts. Letters: T tokens, C hidden size, E experts, K experts of a token, I inner size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from openm3.config import SwigluOAI
from openm3.kernels import checks
from openm3.kernels.backend import choose
from openm3.kernels.lazy import lazy
from openm3.kernels.linear import PackedLinear, Weight
from openm3.kernels.moe import reference, torch_path

_experts_on_gpu = lazy("openm3.kernels.moe.gpu", "experts")
_addresses = lazy("openm3.kernels.moe.gpu", "addresses")

_CHOOSE = {
    "triton": torch_path.choose_experts,  # no code of their own: torch's operations
    "native": torch_path.choose_experts,
    "torch": torch_path.choose_experts,
    "reference": reference.choose_experts,
}


def choose_experts(
    logits_TE: Tensor, bias_E: Tensor, num_chosen: int, scale: float, *, backend: str = "torch"
) -> tuple[Tensor, Tensor]:
    """The experts of every token and their weights (M3's router; DeepSeek-V3, arXiv 2412.19437, section 2.1.2).

    The score of an expert is the sigmoid of its logit. The K experts with the highest score + bias are taken; their
    weights are the scores without bias, scaled to add up to `scale`.

    Args:
        logits_TE: float32 `[T, E]`.
        bias_E: float32 `[E]`, `e_score_correction_bias`.
        num_chosen: K.
        scale: `routed_scaling_factor`.
        backend: see `kernels/backend.py`.

    Returns:
        Expert ids, int64 `[T, K]` of distinct experts, and weights, float32 `[T, K]`.

    Raises:
        ValueError: a shape or dtype is wrong.
    """
    checks.check_shape("logits_TE", logits_TE, (None, None), "T, E")
    checks.check_shape("bias_E", bias_E, (logits_TE.shape[1],), "E")
    for name, tensor in (("logits_TE", logits_TE), ("bias_E", bias_E)):
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name}: expected float32, got {tensor.dtype}")
    if not 1 <= num_chosen <= logits_TE.shape[1]:
        raise ValueError(f"num_chosen: expected 1 to {logits_TE.shape[1]}, got {num_chosen}")
    return _CHOOSE[choose(backend)](logits_TE, bias_E, num_chosen, scale)


class PackedExperts:
    """y = sum over a token's experts e of weight * w2_e swiglu_oai(w1_e x, w3_e x), weights laid out once.

    Only experts that a token of the call chose are touched. The sum of a token runs in an order of its own, so it does
    not depend on the tokens around it. On Triton nothing waits for what was chosen, and ids are not checked; experts
    that stay in MXFP8 are multiplied by torch there, one after the other.

    Args:
        experts: w1, w2 and w3 of every expert: gate `[I, C]`, down `[C, I]`, up `[I, C]`.
        swiglu: the activation's numbers.
        backend: see `kernels/backend.py`.
        span: where they are some of the model's experts, the first one's id and the number of all; chosen experts that
            are not among them add nothing. None: they are all.
    """

    def __init__(
        self,
        experts: Iterable[tuple[Weight, Weight, Weight]],
        swiglu: SwigluOAI,
        *,
        backend: str = "torch",
        span: tuple[int, int] | None = None,
    ) -> None:
        self._swiglu = swiglu
        self._plain: tuple[Tensor, ...] | None = None
        self._on_gpu: Any = None
        if choose(backend) == "reference":
            self._plain = tuple(map(_stack, zip(*experts, strict=True)))
            num_here, _, self.hidden_size = self._plain[0].shape
            self.first_expert, self.num_experts = span or (0, num_here)
            return
        self._gate_up, self._down = [], []
        for w1, w2, w3 in experts:
            self._gate_up.append(PackedLinear(w1, w3, backend=backend))
            self._down.append(PackedLinear(w2, backend=backend))
            self.hidden_size = w1.shape[1]
        self.first_expert, self.num_experts = span or (0, len(self._down))
        self._find_addresses(backend)

    @classmethod
    def of(
        cls,
        gate_up: Sequence[PackedLinear],
        down: Sequence[PackedLinear],
        hidden_size: int,
        swiglu: SwigluOAI,
        span: tuple[int, int],
        backend: str = "torch",
    ) -> PackedExperts:
        """Experts that are laid out already, for the same backend: of each, w1 and w3 together, and w2."""
        packed = cls.__new__(cls)
        packed._swiglu, packed._plain, packed._gate_up, packed._down = swiglu, None, list(gate_up), list(down)
        (packed.first_expert, packed.num_experts), packed.hidden_size = span, hidden_size
        packed._find_addresses(backend)
        return packed

    def _find_addresses(self, backend: str) -> None:
        self._on_gpu = None
        weights = [[linear.plain for linear in some] for some in (self._gate_up, self._down)]
        if choose(backend) == "triton" and all(w is not None for some in weights for w in some):
            self._on_gpu = _addresses(*weights)

    def __call__(self, x_TC: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, *, add_to: Tensor) -> Tensor:
        """`add_to` with the experts' result added; it may be changed in place.

        Args:
            x_TC: `[T, C]`, rounded to the weights' dtype.
            expert_ids_TK: int64 `[T, K]`, distinct in a row.
            weights_TK: float32 `[T, K]`.
            add_to: float32 `[T, C]`, contiguous.

        Raises:
            ValueError: a shape or dtype is wrong, or an id names no expert.
        """
        checks.check_shape("x_TC", x_TC, (None, self.hidden_size), "T, C")
        checks.check_shape("expert_ids_TK", expert_ids_TK, (x_TC.shape[0], None), "T, K")
        checks.check_shape("weights_TK", weights_TK, tuple(expert_ids_TK.shape), "T, K")
        checks.check_shape("add_to", add_to, tuple(x_TC.shape), "T, C")
        if expert_ids_TK.dtype != torch.int64 or weights_TK.dtype != torch.float32 or add_to.dtype != torch.float32:
            raise ValueError(
                f"expert_ids_TK, weights_TK, add_to: expected int64, float32, float32, got {expert_ids_TK.dtype}, "
                f"{weights_TK.dtype}, {add_to.dtype}"
            )
        given = (x_TC, expert_ids_TK, weights_TK)
        if self._on_gpu is not None:
            added: Tensor = _experts_on_gpu(*given, self._on_gpu, self._swiglu, self.first_expert, add_to)
            return added
        if not 0 <= int(expert_ids_TK.min()) <= int(expert_ids_TK.max()) < self.num_experts:
            raise ValueError(f"expert_ids_TK: expected ids of {self.num_experts} experts")
        if self._plain is not None:
            w1, w2, w3 = self._plain
            return reference.experts(*given, w1, w2, w3, self._swiglu, self.first_expert, add_to)
        return torch_path.experts(*given, self._gate_up, self._down, self._swiglu, self.first_expert, add_to)


def _stack(weights: Sequence[Weight]) -> Tensor:
    return torch.stack([w if isinstance(w, Tensor) else w.dequantise() for w in weights])
