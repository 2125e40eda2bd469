"""MXFP8 weights: exact where they are exact, and refused where they don't fit."""

from __future__ import annotations

import pytest
import torch

from openm3.kernels.linear import MXFP8Weight, PackedLinear
from openm3.kernels.linear.mxfp8 import quantise


def test_every_value_at_every_scale() -> None:
    """All 256 bytes as values, against the format's own definition."""
    bits = torch.arange(256, dtype=torch.uint8)
    for exponent in (10, 100, 127, 130, 240):
        weight = MXFP8Weight(
            bits.view(torch.float8_e4m3fn).view(8, 32), torch.full((8, 1), exponent, dtype=torch.uint8)
        )
        sign, power, fraction = bits.int() >> 7, (bits.int() >> 3) & 15, bits.int() & 7
        magnitude = torch.where(power == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (power - 7).double())
        expected = torch.where((bits & 127) == 127, torch.nan, magnitude.double() * (1 - 2 * sign)) * 2.0 ** (
            exponent - 127
        )
        for dtype in (torch.bfloat16, torch.float32):
            out = weight.dequantise(dtype).flatten().double()
            torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


def test_quantising_loses_at_most_a_sixteenth() -> None:
    weight = torch.randn(40, 96) * torch.logspace(-6, 6, 40)[:, None]
    back = quantise(weight).dequantise(torch.float32)
    block_most = weight.unflatten(1, (-1, 32)).abs().amax(-1, keepdim=True)
    error = (back - weight).unflatten(1, (-1, 32)).abs()
    assert (error <= weight.unflatten(1, (-1, 32)).abs() / 16 + block_most * 2**-15).all()


def test_kept_packed_it_gives_what_it_gives_dequantised() -> None:
    weights = [quantise(torch.randn(size, 64)) for size in (48, 32)]
    plain = torch.randn(16, 64).bfloat16()
    x, add_to = torch.randn(5, 64).bfloat16(), torch.randn(5, 96)
    packed = PackedLinear(*weights, plain)
    assert packed.layout == "mxfp8"
    dense = PackedLinear(*(w.dequantise() for w in weights), plain)
    torch.testing.assert_close(packed(x), dense(x))
    torch.testing.assert_close(packed(x, add_to=add_to.clone()), dense(x, add_to=add_to.clone()), atol=0.1, rtol=0.02)


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        (torch.zeros(4, 64), torch.zeros(4, 2, dtype=torch.uint8)),
        (torch.zeros(4, 64).to(torch.float8_e4m3fn), torch.zeros(4, 2)),
        (torch.zeros(4, 64).to(torch.float8_e4m3fn), torch.zeros(4, 4, dtype=torch.uint8)),
        (torch.zeros(4, 48).to(torch.float8_e4m3fn), torch.zeros(4, 1, dtype=torch.uint8)),
    ],
)
def test_what_does_not_fit_is_refused(values: torch.Tensor, scales: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        MXFP8Weight(values, scales)
