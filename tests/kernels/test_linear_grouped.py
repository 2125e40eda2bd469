"""Linear layers of 8 and 4 bits: what the numbers mean, and that products have the bits of bfloat16 weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from openm3.kernels.backend import BACKENDS, native
from openm3.kernels.linear import GroupedWeight, PackedLinear
from openm3.kernels.linear.grouped import GROUP, quantise

needs_native = pytest.mark.skipif("native" not in BACKENDS, reason="installed without a C++ compiler")
SHAPES = [(1, 32), (31, 64), (32, 96), (96, 64), (200, 576)]


@pytest.fixture(params=["avx512", "avx2", "portable"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test with this instruction set."""
    before = native().isa()
    try:
        native().use_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native().use_isa(before)


def draw(bits: int, outputs: int, inputs: int) -> GroupedWeight:
    """Any codes, scales and offsets, some of them zero or negative."""
    groups = (outputs, inputs // GROUP)
    scales = (torch.randn(groups) * 0.01).half()
    if bits == 8:
        return GroupedWeight(torch.randint(-128, 128, (outputs, inputs), dtype=torch.int8), scales)
    codes = torch.randint(0, 256, (outputs, inputs // 2), dtype=torch.uint8)
    return GroupedWeight(codes, scales, (torch.randn(groups) * 0.05).half() * (torch.rand(groups) > 0.2))


@pytest.mark.parametrize("bits", [8, 4])
def test_every_weight_is_scale_times_code_plus_offset(bits: int) -> None:
    weight = draw(bits, 3, 64)
    given = weight.dequantise(torch.float32)
    assert weight.bits == bits and weight.shape == given.shape == (3, 64)
    for o in range(3):
        for i in range(64):
            group, place = divmod(i, GROUP)
            if weight.offsets_OG is None:
                code, offset = int(weight.codes_OK[o, i]), 0.0
            else:
                byte = int(weight.codes_OK[o, 16 * group + place % 16])
                code, offset = (byte >> 4 if place >= 16 else byte & 15), float(weight.offsets_OG[o, group])
            assert float(given[o, i]) == pytest.approx(float(weight.scales_OG[o, group]) * code + offset, rel=1e-6)


def test_rounding_to_8_bits_loses_at_most_half_a_step() -> None:
    weight = torch.randn(40, 96) * torch.logspace(-5, 2, 40)[:, None]
    weight[3, :32] = 0
    rounded = quantise(weight)
    step = rounded.scales_OG.float().repeat_interleave(GROUP, dim=1)
    assert bool(((rounded.dequantise(torch.float32) - weight).abs() <= 0.5001 * step).all())
    assert torch.equal(rounded.dequantise(torch.float32)[3, :32], torch.zeros(32))
    with pytest.raises(ValueError, match="whole groups of 32"):
        quantise(torch.zeros(2, 40))
    with pytest.raises(ValueError, match="no float16 scale"):
        quantise(torch.full((1, 32), 1e9))


def test_columns_are_those_of_the_whole() -> None:
    for weight in (draw(8, 4, 128), draw(4, 4, 128)):
        assert torch.equal(weight.columns(32, 96).dequantise(), weight.dequantise()[:, 32:96])
        with pytest.raises(ValueError, match="within its groups"):
            weight.columns(0, 40)


@needs_native
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_products_have_the_bits_of_bfloat16_weights(outputs: int, inputs: int, bits: int, isa: str) -> None:
    weights = [draw(bits, outputs, inputs) for _ in range(2)]
    wide = [weight.dequantise() for weight in weights]
    x, stream = torch.randn(19, inputs).bfloat16(), torch.randn(19, outputs)
    for options in ({}, {"exact": True}, {"gated": True}):
        packed, plain = PackedLinear(*weights, **options), PackedLinear(*wide, **options)
        assert (packed.layout, plain.layout) == (f"native int{bits}", "native")
        for rows in (1, 2, 4, 5, 19):
            assert torch.equal(packed(x[:rows]), plain(x[:rows]))
    packed, plain = PackedLinear(weights[0]), PackedLinear(wide[0])
    for rows in (1, 3, 19):
        assert torch.equal(
            packed(x[:rows], add_to=stream[:rows].clone()), plain(x[:rows], add_to=stream[:rows].clone())
        )


@needs_native
def test_a_layout_takes_no_more_than_codes_and_numbers() -> None:
    for bits, per_value in ((8, 8.5), (4, 5.0)):
        assert PackedLinear(draw(bits, 64, 96)).packed.nbytes == 64 * 96 * per_value / 8


@pytest.mark.parametrize("backend", BACKENDS)
def test_kinds_that_do_not_fit_are_dequantised(backend: str) -> None:
    weights = [draw(8, 32, 64), draw(4, 32, 64), torch.randn(32, 64).bfloat16()]
    wide = [w if isinstance(w, torch.Tensor) else w.dequantise() for w in weights]
    x = torch.randn(3, 64).bfloat16()
    mixed = PackedLinear(*weights, backend=backend)
    assert mixed.layout == PackedLinear(*wide, backend=backend).layout
    assert torch.equal(mixed(x), PackedLinear(*wide, backend=backend)(x))


def test_wrong_tensors_are_refused() -> None:
    scales = torch.ones(2, 2).half()
    for codes, numbers in (
        (torch.zeros(2, 64, dtype=torch.uint8), (scales,)),
        (torch.zeros(2, 64, dtype=torch.int8), (scales, scales)),
        (torch.zeros(2, 64, dtype=torch.int8), (scales.float(),)),
        (torch.zeros(2, 96, dtype=torch.int8), (scales,)),
        (torch.zeros(2, 32, dtype=torch.uint8), (scales, scales[:1])),
        (torch.zeros(64, dtype=torch.int8), (scales[0],)),
    ):
        with pytest.raises(ValueError, match="expected"):
            GroupedWeight(codes, *numbers)
