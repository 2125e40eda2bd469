"""The alignment loss as its definition reads: whole tokens x tokens matrices, and autograd for all of it.

Letters as in `kl.py`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from openm3.config import SparseConfig


def block_kl(
    q_nHD: Tensor,
    k_RTD: Tensor,
    index_q_nJC: Tensor,
    index_k_TXC: Tensor,
    position_n: Tensor,
    sparse: SparseConfig,
    *,
    target: Literal["max", "mean"] = "max",
    only_chosen: bool = False,
) -> Tensor:
    """fp32 scalar with gradients to the index queries and keys; `only_chosen` is the sparse phase."""
    num_groups, num_tokens, _ = k_RTD.shape
    size = sparse.index_block_size
    token_T = torch.arange(num_tokens)
    losses = []
    for row, position in enumerate(position_n.tolist()):
        own = position // size
        forced = {b for b in range(own + 1) if b > own - sparse.index_local_blocks or b < sparse.index_init_blocks}
        for r in range(num_groups):
            q_GD, index_q_MC = (x[row].unflatten(0, (num_groups, -1))[r] for x in (q_nHD, index_q_nJC))
            logits_GT = (q_GD @ k_RTD[r].T) * k_RTD.shape[-1] ** -0.5
            share_GT = logits_GT.masked_fill(token_T > position, -torch.inf).softmax(-1)
            index_k_TC = index_k_TXC[:, r % index_k_TXC.shape[1]]
            product_T = (index_q_MC @ index_k_TC.T).amax(0) * index_k_TC.shape[-1] ** -0.5
            blocks = [b for b in range(own + 1) if b not in forced]
            if not blocks:
                losses.append(torch.zeros(()))
                continue
            mass_bG = torch.stack([share_GT[:, b * size : (b + 1) * size].sum(1) for b in blocks])
            mass = mass_bG.amax(1) if target == "max" else mass_bG.mean(1)
            score = torch.stack([product_T[b * size : (b + 1) * size].max() for b in blocks])
            if only_chosen:
                best = score.topk(min(sparse.index_topk_blocks - len(forced), len(blocks))).indices
                mass, score = mass[best], score[best]
            p = mass / mass.sum()
            losses.append((p * (p.log() - score.log_softmax(0))).sum())
    return torch.stack(losses).mean()
