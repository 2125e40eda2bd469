"""`openm3.msa` against attention written with explicit masks, values and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openm3 import msa
from openm3.config import SparseConfig
from openm3.kernels import plain_short

SPARSE = SparseConfig(index_block_size=16, index_topk_blocks=3)


@pytest.fixture(autouse=True, scope="module", params=["short", "by_block"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything twice: as short contexts are read, and block by block as long ones are."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "by_block":
            patch.setattr(plain_short, "_FEW_NUMBERS", 0)
        yield


def tensors(
    batch: int = 2, groups: int = 2, heads: int = 6, t: int = 90, length: int = 90, **kwargs: Any
) -> list[Tensor]:
    """q, k, v, index_q, index_k; leaves that want gradients."""
    generator = torch.Generator().manual_seed(0)
    shared = kwargs.pop("shared", True)
    dtype = kwargs.pop("dtype", torch.float32)
    shapes = [
        (heads, t, 16),
        (groups, length, 16),
        (groups, length, 16),
        (groups, t, 8),
        (1 if shared else groups, length, 8),
    ]
    return [torch.randn(batch, *s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def chosen_mask(index_q: Tensor, index_k: Tensor, sparse: SparseConfig, groups: int) -> Tensor:
    """bool `[B, R, T, L]`, written as the paper does: block maxima, top-k, the own block always."""
    t, length, size = index_q.shape[2], index_k.shape[2], sparse.index_block_size
    position = torch.arange(length - t, length)
    visible = torch.arange(length) <= position[:, None]
    scores = (index_q @ index_k.mT).unflatten(1, (groups, -1)).amax(2).masked_fill(~visible, -torch.inf)
    blocks = -(-length // size)
    padded = torch.nn.functional.pad(scores, (0, blocks * size - length), value=-torch.inf)
    best = padded.unflatten(-1, (blocks, size)).amax(-1)
    best.scatter_(-1, (position // size).expand(*best.shape[:2], -1)[..., None], torch.inf)
    top = best.topk(min(sparse.index_topk_blocks, blocks)).indices
    keep = torch.zeros_like(best, dtype=torch.bool).scatter_(-1, top, True)
    return keep.repeat_interleave(size, -1)[..., :length] & visible


def explicit(inputs: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention and alignment loss over a mask `[B, R, T, L]`."""
    q, k, v, index_q, index_k = inputs
    groups = k.shape[1]
    q = q.unflatten(1, (groups, -1))
    weights = (q @ k[:, :, None].mT * q.shape[-1] ** -0.5).masked_fill(~mask[:, :, None], -torch.inf).softmax(-1)
    out = (weights @ v[:, :, None]).flatten(1, 2)
    student = (index_q @ index_k.mT * index_q.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf).log_softmax(-1)
    teacher = weights.detach().mean(2)
    divergence = torch.where(mask & (teacher > 0), teacher * (teacher.log() - student.masked_fill(~mask, 0)), 0)
    return out, divergence.sum(-1).mean()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("t", "length"), [(90, 90), (17, 90), (1, 90), (40, 400)])
@pytest.mark.parametrize("kl", ["selected", "prefix"])
def test_values_and_gradients(t: int, length: int, shared: bool, kl: Any) -> None:
    ours, theirs = tensors(t=t, length=length, shared=shared), tensors(t=t, length=length, shared=shared)
    mask = chosen_mask(theirs[3], theirs[4], SPARSE, 2)
    expected, loss_selected = explicit(theirs, mask)
    out, loss = msa(*ours, sparse=SPARSE, kl=kl)
    visible = torch.arange(length) <= torch.arange(length - t, length)[:, None]
    expected_loss = loss_selected if kl == "selected" else explicit(theirs, visible.expand_as(mask))[1]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-4)
    weight = torch.randn_like(expected)
    ((out * weight).sum() + 3 * loss).backward()
    ((expected * weight).sum() + 3 * expected_loss).backward()
    for mine, other, name in zip(ours, theirs, ("q", "k", "v", "index_q", "index_k"), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kl", [None, "selected", "prefix"])
def test_gradcheck(kl: Any) -> None:
    inputs = tensors(batch=1, heads=2, t=5, length=36, dtype=torch.float64)
    sparse = SparseConfig(index_block_size=16, index_topk_blocks=2)

    def fixed_choice(q: Tensor, k: Tensor, v: Tensor, index_q: Tensor, index_k: Tensor) -> Any:
        out = msa(q, k, v, index_q, index_k, sparse=sparse, kl=kl, backend="torch")
        # The teacher is detached, so the loss is checked through the index tensors alone.
        return out if kl is None else out[1]

    if kl is not None:
        inputs = [x.detach() for x in inputs[:3]] + inputs[3:]
    assert torch.autograd.gradcheck(fixed_choice, inputs, eps=1e-7, atol=1e-5)


def test_the_loss_reaches_the_index_alone_and_attention_never_does() -> None:
    inputs = tensors()
    out, loss = msa(*inputs, sparse=SPARSE, kl="selected")
    loss.backward(retain_graph=True)
    assert [x.grad is not None and bool(x.grad.any()) for x in inputs] == [False, False, False, True, True]
    for x in inputs:
        x.grad = None
    out.sum().backward()
    assert [x.grad is not None and bool(x.grad.any()) for x in inputs] == [True, True, True, False, False]


def test_all_blocks_are_dense_attention_and_few_are_not() -> None:
    q, k, v, index_q, index_k = tensors()
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    wide = SparseConfig(index_block_size=16, index_topk_blocks=6)
    torch.testing.assert_close(msa(q, k, v, index_q, index_k, sparse=wide), dense, atol=1e-5, rtol=0)
    assert (msa(q, k, v, index_q, index_k, sparse=SPARSE) - dense).abs().max() > 1e-2


def test_a_perfect_student_has_no_loss() -> None:
    q, k, v, _, _ = tensors(heads=2)
    out, loss = msa(q, k, v, q.detach(), k.detach(), sparse=SPARSE, kl="selected")
    assert abs(loss.item()) < 1e-6
    assert out.shape == q.shape


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 70), st.integers(0, 50), st.integers(1, 4)
)
def test_shapes(batch: int, groups: int, group_size: int, t: int, prefix: int, topk: int) -> None:
    inputs = tensors(batch, groups, groups * group_size, t, t + prefix)
    sparse = SparseConfig(index_block_size=16, index_topk_blocks=topk)
    out = msa(*inputs, sparse=sparse)
    assert isinstance(out, Tensor)
    expected, _ = explicit(inputs, chosen_mask(inputs[3], inputs[4], sparse, groups))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {0: x[0][0]}, r"q: expected \[B, heads, tokens, size\]"),
        (lambda x: {2: x[2][:, :1]}, "v: expected"),
        (lambda x: {4: x[4][:, :, 1:]}, "index_k: expected 90 tokens like k, got 89"),
        (lambda x: {3: x[3][:, :, 1:]}, "index_q: expected 90 tokens like q, got 89"),
        (lambda x: {0: x[0][:, :5]}, "q: expected a multiple of the 2 heads of k, got 5"),
    ],
)
def test_wrong_tensors_are_named(change: Any, message: str) -> None:
    inputs = dict(enumerate(tensors()))
    inputs.update(change(inputs))
    with pytest.raises(ValueError, match=message):
        msa(*inputs.values(), sparse=SPARSE)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="kl: expected None, 'selected' or 'prefix', got 'full'"):
        msa(*tensors(), kl="full")  # type: ignore[call-overload]
