"""Attention over chosen blocks, and its alignment loss, in few of torch's operations: for short contexts on a CPU.

Small blocks are many, and a visit to each of them costs more than its arithmetic. Here the keys that a query reads are
copied beside it, or, where that is more, all scores are computed and what it doesn't read is hidden.

Letters: B batch, H query heads, R groups, G = H / R, T query tokens, L tokens of the context, D head size, C index head
size, N chosen blocks, s tokens that a query reads or has hidden; x is B, R, T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.kernels.plain import PlainLayout

_FEW_NUMBERS = 1 << 24  # 64 MiB of scores, or of copied keys


@dataclass(frozen=True)
class ShortContext:
    """How a short context is read.

    Attributes:
        copies: the keys that a query reads lie beside it; else all keys are there for all.
        token_xs: int64, the tokens; None for all.
        hidden_xs: which of them it doesn't read.
    """

    copies: bool
    token_xs: Tensor | None
    hidden_xs: Tensor

    @classmethod
    def of(cls, layout: PlainLayout, block_ids_TRN: Tensor, num_heads: int, size: int) -> ShortContext | None:
        """None where the context is long.

        Args:
            layout: of queries and keys.
            block_ids_TRN: what they read, as `select_blocks` says it.
            num_heads, size: of the queries.
        """
        ids_BRTN = block_ids_TRN.long().unflatten(0, (-1, layout.num_queries)).transpose(1, 2)
        copied = ids_BRTN.numel() * layout.block_size * size
        scores = block_ids_TRN.shape[0] * num_heads * layout.context_len
        if min(copied, scores) > _FEW_NUMBERS:
            return None
        position_L = torch.arange(layout.context_len)
        position_T1 = position_L[-layout.num_queries :, None]
        if copied <= scores:
            token_xs = (ids_BRTN[..., None] * layout.block_size + torch.arange(layout.block_size)).flatten(-2)
            hidden_xs = (token_xs < 0) | (token_xs > position_T1)
            return cls(True, token_xs.clamp(0, layout.context_len - 1), hidden_xs)
        is_read = torch.zeros(*ids_BRTN.shape[:3], layout.num_blocks + 1, dtype=torch.bool)
        is_read.scatter_(-1, ids_BRTN.where(ids_BRTN >= 0, layout.num_blocks), True)
        return cls(False, None, ~is_read[..., position_L // layout.block_size] | (position_L > position_T1))

    def attend(self, q_BHTD: Tensor, k_BRLD: Tensor, v_BRLD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention `[B, H, T, D]`, and the mean of a group's softmaxes `[B, R, T, s]` in fp32, detached."""
        q_xGD = q_BHTD.unflatten(1, (k_BRLD.shape[1], -1)).transpose(2, 3)
        scores_xGs = self._scores(q_xGD, k_BRLD) * scale
        weights_xGs = scores_xGs.masked_fill(self.hidden_xs[..., None, :], -torch.inf).softmax(-1)
        cast_xGs = weights_xGs.to(v_BRLD.dtype)
        if self.token_xs is not None:
            out_xGD = cast_xGs @ _beside(v_BRLD, self.token_xs)
        else:
            out_xGD = (cast_xGs.flatten(2, 3) @ v_BRLD).unflatten(2, q_xGD.shape[2:4])
        return out_xGD.transpose(2, 3).flatten(1, 2), weights_xGs.detach().mean(-2)

    def divergence(self, index_q_BRTC: Tensor, index_k_BXLC: Tensor, teacher_xs: Tensor) -> Tensor:
        """Mean KL of the teacher and the softmax of the index scores, over what is read."""
        index_k_BRLC = index_k_BXLC.expand(-1, index_q_BRTC.shape[1], -1, -1)
        scores_xs = self._scores(index_q_BRTC[..., None, :], index_k_BRLC)[..., 0, :]
        scores_xs = scores_xs * float(index_q_BRTC.shape[-1] ** -0.5)
        log_student_xs = scores_xs.masked_fill(self.hidden_xs, -torch.inf).log_softmax(-1)
        log_student_xs = log_student_xs.masked_fill(self.hidden_xs, 0)
        return (torch.xlogy(teacher_xs, teacher_xs) - teacher_xs * log_student_xs).sum(-1).mean()

    def _scores(self, q_xGD: Tensor, k_BRLD: Tensor) -> Tensor:
        """fp32 `[B, R, T, G, s]`; fp64 where the queries are."""
        if self.token_xs is not None:
            scores_xGs = q_xGD @ _beside(k_BRLD, self.token_xs).mT
        else:
            scores_xGs = (q_xGD.flatten(2, 3) @ k_BRLD.mT).unflatten(2, q_xGD.shape[2:4])
        return scores_xGs.to(torch.promote_types(q_xGD.dtype, torch.float32))


def _beside(k_BRLD: Tensor, token_xs: Tensor) -> Tensor:
    """`[B, R, T, s, D]`: the keys that each query reads."""
    num_b, num_r, length, _ = k_BRLD.shape
    first_BR11 = (torch.arange(num_b * num_r) * length).view(num_b, num_r, 1, 1)
    return k_BRLD.flatten(0, 2)[first_BR11 + token_xs]
