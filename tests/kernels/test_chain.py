"""Linear layers with the norms between them: in one call they give the bits of one operation after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import pytest
import torch
from torch import Tensor

from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.kernels.backend import BACKENDS
from openm3.kernels.linear import Chain, Link, PackedLinear
from openm3.kernels.linear.grouped import quantise
from openm3.kernels.rms_norm import rms_norm
from openm3.model.decoder import DecoderLayer

needs_native = pytest.mark.skipif("native" not in BACKENDS, reason="installed without a C++ compiler")
SIZE, INNER = 96, 160


def layer(backend: str, *, eight_bits: bool = False) -> tuple[list[Link], list[Tensor]]:
    """What is behind attention in a layer of Llama, and its two weights of norms."""

    def packed(*shapes: tuple[int, int], gated: bool = False) -> PackedLinear:
        weights = [torch.randn(shape).bfloat16() / shape[1] ** 0.5 for shape in shapes]
        return PackedLinear(*map(quantise, weights) if eight_bits else weights, gated=gated, backend=backend)

    norm_C = torch.rand(SIZE) + 0.5
    return [
        Link(packed((SIZE, 64)), adds=True),
        Link(packed((INNER, SIZE), (INNER, SIZE), gated=True), norm_C, 1e-5),
        Link(packed((SIZE, INNER)), adds=True),
    ], [norm_C]


@needs_native
@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_chain_gives_the_bits_of_its_links(rows: int, eight_bits: bool) -> None:
    links, (norm_C,) = layer("native", eight_bits=eight_bits)
    chain = Chain(*links, backend="native")
    assert chain.is_native
    stream, x = torch.randn(rows, SIZE), torch.randn(rows, 64).bfloat16()
    expected = links[0].linear(x, add_to=stream.clone())
    inner = links[1].linear(rms_norm(expected, norm_C, 1e-5, torch.bfloat16, backend="native"))
    expected = links[2].linear(inner, add_to=expected)
    given = stream.clone()
    assert chain(given, x) is given
    assert torch.equal(given, expected)
    middle = links[1].linear(rms_norm(stream, norm_C, 1e-5, torch.bfloat16, backend="native"))
    assert torch.equal(Chain(links[1], backend="native")(stream), middle)


@needs_native
def test_rows_far_apart_are_read_where_they_are() -> None:
    links, _ = layer("native")
    chain, wide, stream = Chain(*links, backend="native"), torch.randn(5, 128).bfloat16(), torch.randn(5, SIZE)
    for x in (wide[:, 64:], wide[:, ::2]):
        assert torch.equal(chain(stream.clone(), x), chain(stream.clone(), x.contiguous()))


@needs_native
@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_a_model_gives_the_same_bits_without_chains(tiny_model: Path, attention: Literal["dense", "sparse"]) -> None:
    answers = []
    for chained in (True, False):
        llm = LLM(tiny_model, EngineConfig(attention=attention))
        layers = [cast(DecoderLayer, layer) for layer in llm.engine.runner.decoder.layers]
        assert all(layer._chains is not None for layer in layers)
        if not chained:
            for layer in layers:
                layer._chains = None
        answers.append(llm.generate([list(range(1, 60))], SamplingParams(max_tokens=6, logprobs=5, ignore_eos=True))[0])
    assert answers[0].logprobs == answers[1].logprobs


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name in ("torch", "reference")])
def test_elsewhere_links_run_one_by_one(backend: str) -> None:
    links, (norm_C,) = layer(backend)
    chain, stream, x = Chain(*links, backend=backend), torch.randn(3, SIZE), torch.randn(3, 64).bfloat16()
    assert not chain.is_native
    expected = links[0].linear(x, add_to=stream.clone())
    inner = links[1].linear(rms_norm(expected, norm_C, 1e-5, torch.bfloat16, backend=backend))
    torch.testing.assert_close(chain(stream.clone(), x), links[2].linear(inner, add_to=expected))


def test_wrong_tensors_are_refused() -> None:
    links, _ = layer("torch")
    chain, stream, x = Chain(*links, backend="torch"), torch.zeros(3, SIZE), torch.zeros(3, 64).bfloat16()
    for wrong, named in (
        ((stream[:, :64], x), "stream_TC"),
        ((stream.bfloat16(), x), "stream_TC"),
        ((stream.T.contiguous().T, x), "stream_TC"),
        ((stream, None), "x_TI"),
        ((stream, x.float()), "x_TI"),
        ((stream, x[:2]), "x_TI"),
    ):
        with pytest.raises(ValueError, match=named):
            chain(*wrong)
    with pytest.raises(ValueError, match="one size of the stream"):
        Chain(links[0], Link(links[2].linear, torch.ones(INNER)), backend="torch")
