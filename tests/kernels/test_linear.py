"""`PackedLinear` against a plain matrix product."""

from __future__ import annotations

import pytest
import torch

from openm3.kernels.linear import PackedLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stacks_weights(dtype: torch.dtype) -> None:
    weights = [torch.randn(size, 96).to(dtype) for size in (40, 8, 64)]
    x = torch.randn(5, 96)
    expected = x.to(dtype).float() @ torch.cat(weights).float().T
    out = PackedLinear(*weights)(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=1e-4, rtol=1e-2)


def test_exact_products_are_not_rounded() -> None:
    weight, x = torch.randn(300, 512).bfloat16(), torch.randn(3, 512).bfloat16()
    expected = x.double() @ weight.double().T
    rounded = (PackedLinear(weight)(x).double() - expected).abs().max()
    exact = PackedLinear(weight, exact=True)(x)
    assert exact.dtype == torch.float32
    assert (exact.double() - expected).abs().max() < 1e-3 < 1e-2 < rounded


def test_a_row_gives_the_same_bits_whatever_the_number_of_rows() -> None:
    linear = PackedLinear(torch.randn(200, 576).bfloat16(), exact=True)
    x = torch.randn(513, 576).bfloat16()
    whole = linear(x)
    for rows in (1, 2, 3, 8, 15, 16, 17, 64, 100, 512):
        assert torch.equal(linear(x[:rows]), whole[:rows])


def test_refuses_unequal_inputs() -> None:
    with pytest.raises(ValueError, match="expected one input size"):
        PackedLinear(torch.zeros(4, 8), torch.zeros(4, 9))
