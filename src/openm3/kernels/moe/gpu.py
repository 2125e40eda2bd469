"""Triton kernels: the experts of all tokens as two grouped products. Letters as in `op.py`; N = T * K.

The entries (a token and one of its experts) are sorted by expert, on the device, and cut into tiles of one expert each;
how many tiles an expert has is known on the device alone, so nothing waits for it. Each entry's result goes to its own
place, and a token adds up its K results in their order: no atomic additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from openm3.config import SwigluOAI
from openm3.kernels.gpu_shape import power_of_2

_MOST_ROWS = 128  # of a tile
_COLUMNS, _STEP = 64, 64  # outputs of a tile, inputs multiplied at once


@dataclass(frozen=True)
class Weights:
    """Where the weights of each expert lie: int64 addresses `[E]` of gate and up `[2I, C]` and of down `[C, I]`.

    `held` keeps them there.
    """

    gate_up: Tensor
    down: Tensor
    inner_size: int
    dtype: torch.dtype
    held: tuple[Tensor, ...]


def addresses(gate_up: Sequence[Tensor], down: Sequence[Tensor]) -> Weights:
    """Of experts whose weights are plain contiguous tensors."""
    held = (*gate_up, *down)
    found = torch.tensor([w.data_ptr() for w in held], device=held[0].device)
    return Weights(found[: len(gate_up)].clone(), found[len(gate_up) :], down[0].shape[1], down[0].dtype, held)


def experts(
    x_TC: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    weights: Weights,
    swiglu: SwigluOAI,
    first_expert: int,
    add_to_TC: Tensor,
) -> Tensor:
    (num_tokens, size), num_chosen, inner = x_TC.shape, expert_ids_TK.shape[1], weights.inner_size
    device, dtype, num_experts, count = x_TC.device, weights.dtype, len(weights.down), expert_ids_TK.numel()
    x_TC, expert_ids_TK = x_TC.to(dtype).contiguous(), expert_ids_TK.contiguous()
    rows = min(max(power_of_2(-(-count // num_experts)), 16), _MOST_ROWS if dtype.itemsize == 2 else 32)
    ids_N, entry_N = expert_ids_TK.flatten().sort(stable=True)
    start_E1 = torch.searchsorted(ids_N, torch.arange(num_experts + 1, device=device) + first_expert)
    tiles_E = (start_E1.diff() + rows - 1) // rows
    last_tile_E = tiles_E.cumsum(0)
    most_tiles = min(count, count // rows + num_experts)
    where = (entry_N, start_E1, last_tile_E, num_experts)
    hidden_NI = torch.empty((count, inner), dtype=dtype, device=device)
    out_NC = torch.empty((count, size), device=device)
    sizes = {"BM": rows, "BN": _COLUMNS, "BK": _STEP, "BE": power_of_2(num_experts)}
    options = {"num_warps": 4 if rows < 64 else 8, "num_stages": 4 if rows < 64 else 3}
    numbers = (swiglu.swiglu_alpha, swiglu.swiglu_beta, swiglu.swiglu_limit)
    _up_kernel[(most_tiles, -(-inner // _COLUMNS))](
        x_TC, weights.gate_up, hidden_NI, *where, weights_TK.contiguous(), num_chosen, size, inner, *numbers,
        **sizes, **options,
    )  # fmt: skip
    _down_kernel[(most_tiles, -(-size // _COLUMNS))](
        hidden_NI, weights.down, out_NC, *where, size, inner, **sizes, **options
    )
    _sum_kernel[(num_tokens, -(-size // 1024))](
        out_NC, expert_ids_TK, add_to_TC, num_chosen, size, first_expert, num_experts, BC=1024, num_warps=4
    )
    return add_to_TC


@triton.jit
def _find(tile, start_ptr, last_tile_ptr, num_experts, BM: tl.constexpr, BE: tl.constexpr):
    """A tile's expert (`num_experts` where there are no more tiles), its first entry and the end of the expert's."""
    e = tl.arange(0, BE)
    last_tile = tl.load(last_tile_ptr + e, mask=e < num_experts, other=0x7FFFFFFF)
    expert = tl.sum((last_tile <= tile).to(tl.int32), 0)
    is_there = expert < num_experts
    before = tl.sum(tl.where(e == expert - 1, last_tile, 0), 0)  # tiles of the experts before it
    begin = tl.load(start_ptr + expert, mask=is_there, other=0) + (tile - before) * BM
    return expert, begin, tl.load(start_ptr + expert + 1, mask=is_there, other=0)


@triton.jit
def _up_kernel(
    x_ptr,
    weights_ptr,
    hidden_ptr,
    entry_ptr,
    start_ptr,
    last_tile_ptr,
    num_experts,
    share_ptr,
    num_chosen,
    size,
    inner,
    alpha,
    beta,
    limit,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BE: tl.constexpr,
):
    """swiglu_oai(gate, up) * the token's weight for the expert."""
    expert, begin, end = _find(tl.program_id(0), start_ptr, last_tile_ptr, num_experts, BM, BE)
    if expert < num_experts:
        dtype = x_ptr.dtype.element_ty
        n = begin + tl.arange(0, BM)
        i, k = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
        entry = tl.load(entry_ptr + n, mask=n < end, other=0)
        rows = x_ptr + (entry // num_chosen)[:, None] * size
        gate_w = tl.multiple_of(tl.load(weights_ptr + expert).to(tl.pointer_type(dtype)), 16)
        gate_w += i.to(tl.int64)[None, :] * size
        up_w = gate_w + inner.to(tl.int64) * size
        gate, up = tl.zeros([BM, BN], tl.float32), tl.zeros([BM, BN], tl.float32)
        for first in range(0, size, BK):
            c = first + k
            x = tl.load(rows + c[None, :], mask=(n < end)[:, None] & (c < size)[None, :], other=0.0)
            mask = (c < size)[:, None] & (i < inner)[None, :]
            gate = tl.dot(x, tl.load(gate_w + c[:, None], mask=mask, other=0.0), gate, input_precision="ieee")
            up = tl.dot(x, tl.load(up_w + c[:, None], mask=mask, other=0.0), up, input_precision="ieee")
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit)
        hidden = gate / (1 + tl.exp(-alpha * gate)) * (up + beta)
        hidden *= tl.load(share_ptr + entry, mask=n < end, other=0.0)[:, None]
        mask = (n < end)[:, None] & (i < inner)[None, :]
        tl.store(hidden_ptr + n.to(tl.int64)[:, None] * inner + i[None, :], hidden.to(dtype), mask=mask)


@triton.jit
def _down_kernel(
    hidden_ptr,
    weights_ptr,
    out_ptr,
    entry_ptr,
    start_ptr,
    last_tile_ptr,
    num_experts,
    size,
    inner,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BE: tl.constexpr,
):
    expert, begin, end = _find(tl.program_id(0), start_ptr, last_tile_ptr, num_experts, BM, BE)
    if expert < num_experts:
        dtype = hidden_ptr.dtype.element_ty
        n = begin + tl.arange(0, BM)
        c, k = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
        rows = hidden_ptr + n.to(tl.int64)[:, None] * inner
        w = tl.multiple_of(tl.load(weights_ptr + expert).to(tl.pointer_type(dtype)), 16)
        w += c.to(tl.int64)[None, :] * inner
        out = tl.zeros([BM, BN], tl.float32)
        for first in range(0, inner, BK):
            i = first + k
            hidden = tl.load(rows + i[None, :], mask=(n < end)[:, None] & (i < inner)[None, :], other=0.0)
            mask = (i < inner)[:, None] & (c < size)[None, :]
            out = tl.dot(hidden, tl.load(w + i[:, None], mask=mask, other=0.0), out, input_precision="ieee")
        entry = tl.load(entry_ptr + n, mask=n < end, other=0)
        tl.store(out_ptr + entry[:, None] * size + c[None, :], out, mask=(n < end)[:, None] & (c < size)[None, :])


@triton.jit
def _sum_kernel(out_ptr, expert_ids_ptr, add_to_ptr, num_chosen, size, first_expert, num_experts, BC: tl.constexpr):
    token, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.load(add_to_ptr + token * size + c, mask=c < size, other=0.0)
    for i in range(num_chosen):
        expert = tl.load(expert_ids_ptr + token * num_chosen + i) - first_expert
        is_here = (expert >= 0) & (expert < num_experts)
        total += tl.load(out_ptr + (token * num_chosen + i) * size + c, mask=(c < size) & is_here, other=0.0)
    tl.store(add_to_ptr + token * size + c, total, mask=c < size)
