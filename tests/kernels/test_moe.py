"""The experts: the grouped path against the definition, and the laws of the router."""

from __future__ import annotations

import pytest
import torch

from helpers.paged_case import DEVICE
from openm3.config import SwigluOAI
from openm3.kernels.backend import BACKENDS
from openm3.kernels.moe import PackedExperts, choose_experts
from openm3.kernels.swiglu import swiglu_oai

SWIGLU = SwigluOAI(swiglu_alpha=1.702, swiglu_beta=1.0, swiglu_limit=7.0)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
GROUPED = [name for name in ("torch", "triton") if name in BACKENDS]  # Triton in its interpreter where there is no GPU
T, C, E, K, I = 33, 48, 16, 4, 40  # noqa: E741


def on(backend: str) -> str:
    return DEVICE if backend == "triton" else "cpu"


def weights(dtype: torch.dtype) -> tuple[list[torch.Tensor], ...]:
    torch.manual_seed(0)
    shapes = ((I, C), (C, I), (I, C))
    w1, w2, w3 = ([(0.3 * torch.randn(shape)).to(dtype) for _ in range(E)] for shape in shapes)
    return w1, w2, w3


def routed(num_tokens: int = T) -> tuple[torch.Tensor, torch.Tensor]:
    return choose_experts(torch.randn(num_tokens, E), 0.1 * torch.randn(E), K, 2.0)


def packed(dtype: torch.dtype, backend: str, first: int = 0, last: int = E) -> PackedExperts:
    """Some of the experts, where a backend runs."""
    some = [[w.to(on(backend)) for w in each] for each in list(zip(*weights(dtype), strict=True))[first:last]]
    return PackedExperts(some, SWIGLU, backend=backend, span=(first, E))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", GROUPED)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_tokens", [1, 2, T])
def test_the_grouped_path_is_the_definition(dtype: torch.dtype, num_tokens: int, backend: str) -> None:
    w = weights(dtype)
    x, start = torch.randn(num_tokens, C).to(dtype), torch.randn(num_tokens, C)
    ids_and_weights = routed(num_tokens)
    expected = PackedExperts(zip(*w, strict=True), SWIGLU, backend="reference")(
        x, *ids_and_weights, add_to=start.clone()
    )
    given = [t.to(on(backend)) for t in (x, *ids_and_weights)]
    grouped = packed(dtype, backend)(*given, add_to=start.clone().to(on(backend))).cpu()
    torch.testing.assert_close(grouped, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert not torch.equal(grouped, start)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_token_gives_the_same_in_any_company(dtype: torch.dtype) -> None:
    experts, x, (ids, share) = PackedExperts(zip(*weights(dtype), strict=True), SWIGLU), torch.randn(T, C), routed()
    whole = experts(x, ids, share, add_to=torch.zeros(T, C))
    alone = torch.cat(
        [experts(x[t : t + 1], ids[t : t + 1], share[t : t + 1], add_to=torch.zeros(1, C)) for t in range(T)]
    )
    torch.testing.assert_close(whole, alone, atol=0 if dtype == torch.bfloat16 else 1e-4, rtol=0)


@pytest.mark.parametrize("backend", [*GROUPED, "reference"])
def test_parts_of_the_experts_add_up_to_all(backend: str) -> None:
    given = [t.to(on(backend)) for t in (torch.randn(T, C), *routed())]
    whole = packed(torch.float32, backend)(*given, add_to=torch.zeros(T, C).to(on(backend)))
    parts = torch.zeros(T, C).to(on(backend))
    for first, last in ((0, 3), (3, 15), (15, E)):
        parts = packed(torch.float32, backend, first, last)(*given, add_to=parts)
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("backend", GROUPED)
def test_experts_without_tokens_are_not_touched(backend: str) -> None:
    w1, w2, w3 = weights(torch.float32)
    for w in (w1, w2, w3):
        w[5] = torch.full_like(w[5], torch.nan)
    experts = zip(*([x.to(on(backend)) for x in w] for w in (w1, w2, w3)), strict=True)
    given = (torch.randn(8, C), torch.tensor([[0, 4, 6, 15]] * 8), torch.ones(8, 4), torch.zeros(8, C))
    x, ids, share, add_to = (t.to(on(backend)) for t in given)
    out = PackedExperts(experts, SWIGLU, backend=backend)(x, ids, share, add_to=add_to)
    assert torch.isfinite(out).all()


def test_the_activation_clamps_gates_above_and_ups_on_both_sides() -> None:
    gate, up = torch.tensor([-20.0, 20.0, 7.0, 1.0]), torch.tensor([-20.0, 20.0, 7.0, 0.5])
    expected = [-20 * torch.tensor(-20 * 1.702).sigmoid() * -6, 7 * torch.tensor(7 * 1.702).sigmoid() * 8]
    out = swiglu_oai(gate, up, SWIGLU)
    torch.testing.assert_close(out[:2], torch.stack([*expected]).float())
    assert out[1] == out[2]
    assert out[3] == pytest.approx(1.5 / (1 + 2.718281828**-1.702))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_bias_chooses_and_does_not_weigh(backend: str) -> None:
    logits, bias = torch.randn(T, E), torch.zeros(E)
    bias[3] = 10.0
    ids, share = choose_experts(logits, bias, K, 2.0, backend=backend)
    assert (ids == 3).any(-1).all()
    scores = logits.sigmoid().gather(1, ids)
    torch.testing.assert_close(share, 2 * scores / scores.sum(-1, keepdim=True))
    torch.testing.assert_close(share.sum(-1), torch.full((T,), 2.0))


def test_backends_choose_the_same_experts() -> None:
    logits, bias = torch.randn(T, E), torch.randn(E)
    chosen = [choose_experts(logits, bias, K, 2.0, backend=name) for name in ("torch", "reference")]
    assert chosen[0][0].sort().values.equal(chosen[1][0].sort().values)


@pytest.mark.parametrize(
    ("ids", "share", "message"),
    [
        (torch.zeros(3, K, dtype=torch.int64), torch.zeros(2, K), "expert_ids_TK: expected"),
        (torch.zeros(2, K, dtype=torch.int32), torch.zeros(2, K), "expected int64"),
        (torch.full((2, K), E), torch.zeros(2, K), "expected ids of 16 experts"),
        (torch.zeros(2, K, dtype=torch.int64), torch.zeros(2, K + 1), "weights_TK"),
    ],
)
def test_wrong_tensors_are_refused(ids: torch.Tensor, share: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackedExperts(zip(*weights(torch.float32), strict=True), SWIGLU)(
            torch.zeros(2, C), ids, share, add_to=torch.zeros(2, C)
        )
