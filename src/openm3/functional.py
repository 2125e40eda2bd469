"""`msa`: MiniMax Sparse Attention on plain tensors, with gradients and the alignment loss of the index branch.

Letters: B batch, H query heads, R groups (key/value heads), G = H / R heads a group, J index query heads, X index key
heads, T query tokens, L tokens of the context, D head size, C index head size, N chosen blocks, S block size; n the
queries that read a block, s the tokens of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from openm3.config import SparseConfig
from openm3.kernels.backend import choose
from openm3.kernels.plain import PlainLayout
from openm3.kernels.plain_short import ShortContext
from openm3.kernels.select_blocks import select_blocks
from openm3.kernels.sparse_attention import sparse_attention_lse


@overload
def msa(
    q_BHTD: Tensor,
    k_BRLD: Tensor,
    v_BRLD: Tensor,
    index_q_BJTC: Tensor,
    index_k_BXLC: Tensor,
    *,
    sparse: SparseConfig | None = None,
    scale: float | None = None,
    kl: None = None,
    backend: str | None = None,
) -> Tensor: ...


@overload
def msa(
    q_BHTD: Tensor,
    k_BRLD: Tensor,
    v_BRLD: Tensor,
    index_q_BJTC: Tensor,
    index_k_BXLC: Tensor,
    *,
    sparse: SparseConfig | None = None,
    scale: float | None = None,
    kl: Literal["selected", "prefix"],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


def msa(
    q_BHTD: Tensor,
    k_BRLD: Tensor,
    v_BRLD: Tensor,
    index_q_BJTC: Tensor,
    index_k_BXLC: Tensor,
    *,
    sparse: SparseConfig | None = None,
    scale: float | None = None,
    kl: Literal["selected", "prefix"] | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal attention over the blocks that the index branch chooses (MSA, arXiv 2606.13392).

        out = msa(q, k, v, index_q, index_k)
        out, loss = msa(q, k, v, index_q, index_k, kl="selected")

    The T queries are the last of the L tokens. Gradients reach q, k and v exactly as in attention over the chosen
    blocks; none pass through the choice. The alignment loss (section 1.4 of the paper) is the mean over queries and
    groups of KL(P || P_idx): P is the mean of the softmaxes of the group's heads and P_idx the softmax of the index
    scores, both over the same tokens. P is detached, so that the loss reaches index_q and index_k alone; detach
    their input to keep it out of the rest of the model. Nothing of size T x L is allocated.

    Args:
        q_BHTD: `[B, H, T, D]`, float32 or bfloat16.
        k_BRLD, v_BRLD: `[B, R, L, D]`, like q.
        index_q_BJTC: `[B, J, T, C]`, J = R for the published form; any multiple of R selects (by the maximum over a
            group's index heads), only J = R has the loss.
        index_k_BXLC: `[B, X, L, C]`, X = 1 (shared, the published form) or R.
        sparse: block size, top-k and which blocks are always read; the published values when None.
        scale: of q·k; 1 / sqrt(D) when None.
        kl: None for no loss; "selected" over the chosen blocks; "prefix" over all visible tokens, the warm-up form,
            which costs as much as dense attention.
        backend: see `kernels/backend.py`.

    Returns:
        `[B, H, T, D]` like q; with `kl` also the loss, fp32, a scalar.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or `kl` is unknown.
    """
    sparse = sparse or SparseConfig()
    scale = float(q_BHTD.shape[-1] ** -0.5) if scale is None else scale
    _check(q_BHTD, k_BRLD, v_BRLD, index_q_BJTC, index_k_BXLC, kl)
    layout = PlainLayout.build(q_BHTD, k_BRLD, sparse.index_block_size)
    index_backend, backend = choose(backend, index_q_BJTC), choose(backend, q_BHTD)
    with torch.no_grad():
        block_ids_TRN = select_blocks(
            layout.pack(index_q_BJTC),
            layout.to_pages(index_k_BXLC),
            layout.batch,
            sparse,
            num_groups=k_BRLD.shape[1],
            backend=index_backend,
        )
    short = None
    if backend in ("native", "torch") and kl != "prefix":
        short = ShortContext.of(layout, block_ids_TRN, q_BHTD.shape[1], q_BHTD.shape[-1])
    if short is not None:
        out_BHTD, teacher_xs = short.attend(q_BHTD, k_BRLD, v_BRLD, scale)
        return out_BHTD if kl is None else (out_BHTD, short.divergence(index_q_BJTC, index_k_BXLC, teacher_xs))
    out_BHTD, lse_BHT = attend_blocks(q_BHTD, k_BRLD, v_BRLD, block_ids_TRN, layout, scale=scale, backend=backend)
    if kl is None:
        return out_BHTD
    readers = None if kl == "prefix" else block_ids_TRN
    teacher = q_BHTD.detach(), k_BRLD.detach(), lse_BHT
    loss = _AlignmentLoss.apply(index_q_BJTC, index_k_BXLC, *teacher, readers, layout, scale, backend)  # type: ignore[no-untyped-call]
    return out_BHTD, loss


@dataclass(frozen=True)
class _Visit:
    """The queries `query_n` of group r in sequence b that read `tokens`; `hidden_ns` lie after the query."""

    b: int
    r: int
    tokens: slice
    query_n: Tensor
    hidden_ns: Tensor


def _visits(layout: PlainLayout, block_ids_TRN: Tensor | None, num_groups: int) -> Iterator[_Visit]:
    """Every block of every sequence and group with the queries that read it; all that see it when ids are None."""
    first = layout.context_len - layout.num_queries
    for b in range(len(layout.batch.spans)):
        ids_TRN = None if block_ids_TRN is None else block_ids_TRN[layout.batch.spans[b].rows]
        for block in range(layout.num_blocks):
            tokens = slice(block * layout.block_size, min((block + 1) * layout.block_size, layout.context_len))
            seeing = max(tokens.start - first, 0)
            for r in range(num_groups):
                if ids_TRN is None:
                    query_n = torch.arange(seeing, layout.num_queries)
                else:
                    query_n = (ids_TRN[seeing:, r] == block).any(-1).nonzero()[:, 0] + seeing
                if len(query_n):
                    position_s = torch.arange(tokens.start, tokens.stop)
                    yield _Visit(b, r, tokens, query_n, position_s > query_n[:, None] + first)


def attend_blocks(
    q_BHTD: Tensor,
    k_BRLD: Tensor,
    v_BRLD: Tensor,
    block_ids_TRN: Tensor,
    layout: PlainLayout,
    *,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Attention over given blocks with gradients to q, k and v, and its log-sum-exp `[B, H, T]`.

    `block_ids_TRN` is as `select_blocks` returns it for the packed queries of `layout`.
    """
    attended: tuple[Tensor, Tensor] = _SparseAttention.apply(  # type: ignore[no-untyped-call]
        q_BHTD, k_BRLD, v_BRLD, block_ids_TRN, layout, scale, backend
    )
    return attended


class _SparseAttention(torch.autograd.Function):
    """Attention over given blocks: the kernel forward; backward block by block from the log-sum-exp."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHTD: Tensor,
        k_BRLD: Tensor,
        v_BRLD: Tensor,
        block_ids_TRN: Tensor,
        layout: PlainLayout,
        scale: float,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        out_THD, lse_TH = sparse_attention_lse(
            layout.pack(q_BHTD),
            layout.to_pages(k_BRLD),
            layout.to_pages(v_BRLD),
            block_ids_TRN,
            layout.batch,
            scale=scale,
            backend=backend,
        )
        out_BHTD, lse_BHT = layout.unpack(out_THD), layout.unpack(lse_TH)
        ctx.layout, ctx.scale, ctx.backend = layout, scale, backend
        ctx.save_for_backward(q_BHTD, k_BRLD, v_BRLD, block_ids_TRN, out_BHTD, lse_BHT)
        ctx.mark_non_differentiable(lse_BHT)
        return out_BHTD, lse_BHT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_BHTD, k_BRLD, v_BRLD, block_ids_TRN, out_BHTD, lse_BHT = ctx.saved_tensors
        if ctx.backend == "triton":
            return *_backward_on_gpu(ctx.layout, ctx.scale, grads[0], *ctx.saved_tensors), None, None, None, None
        num_groups, dtype = k_BRLD.shape[1], lse_BHT.dtype
        q, out, dout = (x.unflatten(1, (num_groups, -1)).to(dtype) for x in (q_BHTD, out_BHTD, grads[0]))
        lse = lse_BHT.unflatten(1, (num_groups, -1))
        delta = (out * dout).sum(-1)  # [B, R, G, T]
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k_BRLD, dtype=dtype), torch.zeros_like(v_BRLD, dtype=dtype)
        for visit in _visits(ctx.layout, block_ids_TRN, num_groups):
            b, r, tokens, n = visit.b, visit.r, visit.tokens, visit.query_n
            k_sD, v_sD = k_BRLD[b, r, tokens].to(dtype), v_BRLD[b, r, tokens].to(dtype)
            q_GnD, dout_GnD = q[b, r, :, n], dout[b, r, :, n]
            scores_Gns = (q_GnD @ k_sD.mT) * ctx.scale - lse[b, r, :, n, None]
            p_Gns = scores_Gns.masked_fill(visit.hidden_ns, -torch.inf).exp()
            dscores_Gns = p_Gns * (dout_GnD @ v_sD.mT - delta[b, r, :, n, None]) * ctx.scale
            dv[b, r, tokens] += (p_Gns.mT @ dout_GnD).sum(0)
            dk[b, r, tokens] += (dscores_Gns.mT @ q_GnD).sum(0)
            dq[b, r, :, n] += dscores_Gns @ k_sD
        return dq.flatten(1, 2).to(q_BHTD.dtype), dk.to(k_BRLD.dtype), dv.to(v_BRLD.dtype), None, None, None, None


def _backward_on_gpu(
    layout: PlainLayout,
    scale: float,
    dout_BHTD: Tensor,
    q_BHTD: Tensor,
    k_BRLD: Tensor,
    v_BRLD: Tensor,
    block_ids_TRN: Tensor,
    out_BHTD: Tensor,
    lse_BHT: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    from openm3.kernels.sparse_attention.gpu_backward import sparse_attention_backward

    dq_THD, dk_PRSD, dv_PRSD = sparse_attention_backward(
        layout.pack(dout_BHTD),
        layout.pack(q_BHTD),
        layout.to_pages(k_BRLD),
        layout.to_pages(v_BRLD),
        layout.pack(out_BHTD),
        layout.pack(lse_BHT),
        block_ids_TRN,
        layout.batch,
        scale,
    )
    return layout.unpack(dq_THD), layout.from_pages(dk_PRSD), layout.from_pages(dv_PRSD)


class _AlignmentLoss(torch.autograd.Function):
    """Mean KL(P || P_idx); its gradients are computed with the value, as the teacher is read once for both."""

    @staticmethod
    def forward(
        ctx: Any,
        index_q_BRTC: Tensor,
        index_k_BXLC: Tensor,
        q_BHTD: Tensor,
        k_BRLD: Tensor,
        lse_BHT: Tensor,
        block_ids_TRN: Tensor | None,
        layout: PlainLayout,
        scale: float,
        backend: str,
    ) -> Tensor:
        if backend == "triton":
            from openm3.kernels.alignment.gpu import alignment_loss

            loss, dindex_q_TRC, dindex_k_PXSC = alignment_loss(
                layout.pack(index_q_BRTC),
                layout.to_pages(index_k_BXLC),
                layout.pack(q_BHTD),
                layout.to_pages(k_BRLD),
                layout.pack(lse_BHT),
                block_ids_TRN,
                layout.batch,
                scale,
            )
            ctx.save_for_backward(layout.unpack(dindex_q_TRC), layout.from_pages(dindex_k_PXSC))
            return loss
        num_groups, dtype = k_BRLD.shape[1], lse_BHT.dtype
        index_scale = float(index_q_BRTC.shape[-1] ** -0.5)
        index_q, index_k, q, k = (x.to(dtype) for x in (index_q_BRTC, index_k_BXLC, q_BHTD, k_BRLD))
        q = q.unflatten(1, (num_groups, -1))
        visits = list(_visits(layout, block_ids_TRN, num_groups))

        def scores(visit: _Visit) -> tuple[Tensor, Tensor]:
            """The main scores `[G, n, s]` and the index scores `[n, s]` of a block, -inf where hidden."""
            b, r, tokens = visit.b, visit.r, visit.tokens
            main_Gns = q[b, r, :, visit.query_n] @ k[b, r, tokens].mT * scale
            x = r if index_k.shape[1] > 1 else 0
            index_ns = index_q[b, r, visit.query_n] @ index_k[b, x, tokens].mT * index_scale
            return main_Gns.masked_fill(visit.hidden_ns, -torch.inf), index_ns.masked_fill(visit.hidden_ns, -torch.inf)

        index_lse = torch.full(index_q.shape[:3], -torch.inf, dtype=dtype)
        main_lse = torch.full(q.shape[:4], -torch.inf, dtype=dtype)
        for visit in visits:
            where = visit.b, visit.r, visit.query_n
            main_Gns, index_ns = scores(visit)
            index_lse[where] = torch.logaddexp(index_lse[where], index_ns.logsumexp(-1))
            if block_ids_TRN is None:  # over another support than the attention's, so with another sum
                over = visit.b, visit.r, slice(None), visit.query_n
                main_lse[over] = torch.logaddexp(main_lse[over], main_Gns.logsumexp(-1))
        if block_ids_TRN is not None:
            main_lse = lse_BHT.unflatten(1, (num_groups, -1))

        loss = torch.zeros((), dtype=dtype)
        dindex_q, dindex_k = torch.zeros_like(index_q), torch.zeros_like(index_k)
        for visit in visits:
            b, r, n, tokens = visit.b, visit.r, visit.query_n, visit.tokens
            main_Gns, index_ns = scores(visit)
            teacher_ns = (main_Gns - main_lse[b, r, :, n, None]).exp().mean(0)
            log_student_ns = index_ns - index_lse[b, r, n, None]
            loss += torch.where(teacher_ns > 0, teacher_ns * (teacher_ns.log() - log_student_ns), 0).sum()
            dscores_ns = (log_student_ns.exp() - teacher_ns) * index_scale
            x = r if index_k.shape[1] > 1 else 0
            dindex_k[b, x, tokens] += dscores_ns.mT @ index_q[b, r, n]
            dindex_q[b, r, n] += dscores_ns @ index_k[b, x, tokens]
        count = index_lse.numel()
        ctx.save_for_backward((dindex_q / count).to(index_q_BRTC.dtype), (dindex_k / count).to(index_k_BXLC.dtype))
        return loss / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dindex_q, dindex_k = ctx.saved_tensors
        return dindex_q * grads[0], dindex_k * grads[0], None, None, None, None, None, None, None


def _check(q: Tensor, k: Tensor, v: Tensor, index_q: Tensor, index_k: Tensor, kl: str | None) -> None:
    """Raises ValueError for what the kernels, which see pages, could not name."""
    for name, tensor in (("q", q), ("k", k), ("v", v), ("index_q", index_q), ("index_k", index_k)):
        if tensor.ndim != 4:
            raise ValueError(f"{name}: expected [B, heads, tokens, size], got {list(tensor.shape)}")
        if tensor.shape[0] != q.shape[0]:
            raise ValueError(f"{name}: expected batch {q.shape[0]} like q, got {tensor.shape[0]}")
    if k.shape != v.shape:
        raise ValueError(f"v: expected {list(k.shape)} like k, got {list(v.shape)}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"q: expected a multiple of the {k.shape[1]} heads of k, got {q.shape[1]}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"q: expected heads of {k.shape[3]} elements like k, got {q.shape[3]}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v: expected one dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    if index_k.shape[2] != k.shape[2]:
        raise ValueError(f"index_k: expected {k.shape[2]} tokens like k, got {index_k.shape[2]}")
    if index_q.shape[2] != q.shape[2]:
        raise ValueError(f"index_q: expected {q.shape[2]} tokens like q, got {index_q.shape[2]}")
    if not 1 <= q.shape[2] <= k.shape[2]:
        raise ValueError(f"q: expected 1 to {k.shape[2]} tokens, the last ones of k, got {q.shape[2]}")
    if kl not in (None, "selected", "prefix"):
        raise ValueError(f"kl: expected None, 'selected' or 'prefix', got {kl!r}")
    if kl is not None and index_q.shape[1] != k.shape[1]:
        raise ValueError(f"index_q: the loss needs one head a group, {k.shape[1]}, got {index_q.shape[1]}")
