"""`openm3.msa` by Triton's kernels: values and gradients against the torch path, and repeatable sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.paged_case import DEVICE
from openm3 import msa
from openm3.config import SparseConfig
from openm3.kernels.backend import BACKENDS

pytestmark = [
    pytest.mark.skipif("triton" not in BACKENDS, reason="triton is not installed"),
    pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value", "ignore:overflow", "ignore:divide"),
]

SPARSE = SparseConfig(index_block_size=16, index_topk_blocks=2)


def tensors(
    t: int, length: int, *, groups: int = 2, heads: int = 6, shared: bool = True, size: int = 16, batch: int = 2
) -> list[Tensor]:
    """q, k, v, index_q, index_k."""
    generator = torch.Generator().manual_seed(0)
    index_heads = 1 if shared else groups
    shapes = [
        (heads, t, size),
        (groups, length, size),
        (groups, length, size),
        (groups, t, 8),
        (index_heads, length, 8),
    ]
    return [torch.randn(batch, *shape, generator=generator) for shape in shapes]


def run(inputs: list[Tensor], backend: str, sparse: SparseConfig, kl: Any) -> list[Tensor]:
    """Output, loss and the five gradients, on the CPU."""
    device = DEVICE if backend == "triton" else "cpu"
    leaves = [x.to(device).requires_grad_() for x in inputs]
    out, loss = msa(*leaves, sparse=sparse, kl=kl, backend=backend)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    ((out * weight).sum() + 3 * loss).backward()
    return [x.detach().cpu() for x in (out, loss, *(leaf.grad for leaf in leaves))]  # type: ignore[union-attr]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("t", "length"), [(40, 40), (9, 53), (1, 33)])
@pytest.mark.parametrize("kl", ["selected", "prefix"])
def test_values_and_gradients(t: int, length: int, shared: bool, kl: Any) -> None:
    inputs = tensors(t, length, shared=shared, batch=1 if t == 40 else 2)
    names = ("out", "loss", "q", "k", "v", "index_q", "index_k")
    for name, ours, theirs in zip(
        names, run(inputs, "triton", SPARSE, kl), run(inputs, "torch", SPARSE, kl), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kl", ["selected", "prefix"])
def test_geometry_of_m3_in_bf16(kl: Any) -> None:
    """16 heads a group, heads of 128, blocks of 128."""
    t = 300 if DEVICE == "cuda" else 20
    inputs = tensors(t, t + 150, groups=1, heads=16, size=128, batch=1)
    inputs[3], inputs[4] = (torch.randn(1, 1, n, 128) for n in (t, t + 150))
    sparse = SparseConfig(index_topk_blocks=2)
    rounded = [x.bfloat16() for x in inputs]
    expected = run([x.float() for x in rounded], "torch", sparse, kl)
    for ours, theirs in zip(run(rounded, "triton", sparse, kl), expected, strict=True):
        error = (ours.float() - theirs).norm() / theirs.norm()
        assert error < 2e-2, error


def test_gradients_are_repeatable() -> None:
    inputs = [x.bfloat16() for x in tensors(60, 60, batch=1)]
    first, second = (run(inputs, "triton", SPARSE, "selected") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
