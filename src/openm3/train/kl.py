"""The alignment loss of an index branch, over blocks: what it should choose, and how far it is from that.

For query token n of group r let mass(b) be the share of block b in the softmax of attention, of the group's heads the
largest or the mean, and score(b) the largest product of an index query of the group and an index key of the block, by
which `select_blocks` chooses. With P = mass and Q = exp(score / sqrt(C)), both normalised over the candidates,

    loss = mean over n and r of KL(P || Q).

Candidates are the visible blocks that are not read anyway; in the sparse phase those of them that the branch chooses.
Only the product that is largest in a block moves its score, so all maxima are found without gradients, tile by tile,
and then computed again with them: of n x T products no more than n x B are kept, and memory is linear in T.

Letters: n sampled query tokens, T tokens, H query heads, R groups, G = H / R heads a group, D head size, J index query
heads, X index key heads, M = J / R index query heads a group, C index head size, B blocks, S tokens of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openm3.config import SparseConfig

_TILE_ELEMENTS = 1 << 23  # products held at once


def block_mass(q_nHD: Tensor, k_RTD: Tensor, position_n: Tensor, block_size: int) -> Tensor:
    """fp32 `[n, R, G, B]`: the share of each block in the softmax of attention of each head.

    Args:
        q_nHD: queries as attention has them.
        k_RTD: keys of the whole window, whole blocks of them; what lies behind a query counts nothing.
        position_n: int64, where the queries stand.
        block_size: S.
    """
    num_groups, num_tokens, size = k_RTD.shape
    q_RGnD = q_nHD.float().transpose(0, 1).unflatten(0, (num_groups, -1)) * size**-0.5
    k_R1DT = k_RTD.float().mT[:, None]
    token_T = torch.arange(num_tokens, device=k_RTD.device)
    tiles = []
    for rows in _tiles(len(position_n), q_nHD.shape[1] * num_tokens):
        scores_RGnT = q_RGnD[:, :, rows] @ k_R1DT
        scores_RGnT.masked_fill_(token_T > position_n[rows, None], -torch.inf)
        mass_RGnB = scores_RGnT.softmax(-1).unflatten(-1, (-1, block_size)).sum(-1)
        tiles.append(mass_RGnB.permute(2, 0, 1, 3))
    return torch.cat(tiles)


@dataclass(frozen=True)
class Candidates:
    """Which blocks a query could choose.

    Attributes:
        open_nB: visible, and not read anyway.
        forced_nB: always read.
    """

    open_nB: Tensor
    forced_nB: Tensor

    @classmethod
    def of(cls, position_n: Tensor, num_blocks: int, sparse: SparseConfig) -> Candidates:
        """Those of queries at these positions."""
        own_n1 = (position_n // sparse.index_block_size)[:, None]
        block_B = torch.arange(num_blocks, device=position_n.device)
        visible_nB = block_B <= own_n1
        is_local, is_init = block_B > own_n1 - sparse.index_local_blocks, block_B < sparse.index_init_blocks
        forced_nB = visible_nB & (is_local | is_init)
        return cls(visible_nB & ~forced_nB, forced_nB)

    def chosen(self, scores_nRB: Tensor, topk: int) -> Tensor:
        """bool `[n, R, B]`: the best `topk` by these scores, what is always read among them."""
        open_n1B, forced_n1B = self.open_nB[:, None], self.forced_nB[:, None]
        ranked = scores_nRB.masked_fill(~open_n1B, -torch.inf).masked_fill(forced_n1B, torch.inf)
        best = ranked.topk(min(topk, ranked.shape[-1]), dim=-1).indices
        return torch.zeros_like(ranked, dtype=torch.bool).scatter_(-1, best, True) & (open_n1B | forced_n1B)


def block_scores(index_q_nJC: Tensor, index_k_TXC: Tensor, num_groups: int, block_size: int) -> Tensor:
    """fp32 `[n, R, B]`, with gradients: the largest product in each block, over sqrt(C).

    Tokens behind the query count; a block that has such is always read, and no candidate.

    Args:
        index_q_nJC, index_k_TXC: index queries and keys, fp32; whole blocks of keys.
        num_groups, block_size: R, S.
    """
    _, num_key_heads, size = index_k_TXC.shape
    index_q_nRMC, scale = index_q_nJC.unflatten(1, (num_groups, -1)), size**-0.5
    head_nRB, token_nRB = _winners(index_q_nRMC.detach(), index_k_TXC.detach(), block_size)
    key_head_R = torch.arange(num_groups, device=head_nRB.device) % num_key_heads
    row_nRB = token_nRB * num_key_heads + key_head_R[:, None]
    k_nRBC = F.embedding(row_nRB, index_k_TXC.flatten(0, 1))  # its backward adds up in a fixed order
    if index_q_nRMC.shape[2] == 1:
        return torch.einsum("nrc,nrbc->nrb", index_q_nRMC[:, :, 0], k_nRBC) * scale
    all_nRMB = torch.einsum("nrmc,nrbc->nrmb", index_q_nRMC, k_nRBC) * scale
    return all_nRMB.gather(2, head_nRB[:, :, None])[:, :, 0]


def _winners(index_q_nRMC: Tensor, index_k_TXC: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """int64 `[n, R, B]` each: which index query head of the group and which token have the largest product."""
    num_rows, num_groups, heads, _ = index_q_nRMC.shape
    q_RnMC, k_XCT = index_q_nRMC.transpose(0, 1), index_k_TXC.permute(1, 2, 0)
    found_head, found_token = [], []
    first_B = torch.arange(0, index_k_TXC.shape[0], block_size, device=index_k_TXC.device)
    for rows in _tiles(num_rows, num_groups * heads * index_k_TXC.shape[0]):
        products = q_RnMC[:, rows].flatten(1, 2) @ k_XCT  # one key head is shared by all groups
        best, token = products.unflatten(1, (-1, heads)).unflatten(-1, (-1, block_size)).max(-1)
        head_RnB = best.argmax(2)
        token_RnB = token.gather(2, head_RnB[:, :, None])[:, :, 0] + first_B
        found_head.append(head_RnB.transpose(0, 1))
        found_token.append(token_RnB.transpose(0, 1))
    return torch.cat(found_head), torch.cat(found_token)


def block_kl(mass_nRB: Tensor, scores_nRB: Tensor, candidates_nRB: Tensor) -> Tensor:
    """fp32 scalar: the mean over queries and groups of KL(P || Q), see the top of this file.

    A query with no candidate, or with no mass on any, adds nothing.

    Args:
        mass_nRB: of `block_mass`, one for all heads of a group.
        scores_nRB: of `block_scores`.
        candidates_nRB: bool, may be `[n, 1, B]`.
    """
    mass_nRB = mass_nRB * candidates_nRB
    total_nR1 = mass_nRB.sum(-1, keepdim=True)
    p_nRB = mass_nRB / total_nR1.clamp_min(torch.finfo(torch.float32).tiny)
    lowest = torch.finfo(torch.float32).min  # -inf would make NaN of a row without candidates
    log_q_nRB = scores_nRB.masked_fill(~candidates_nRB, lowest).log_softmax(-1)
    return torch.where(p_nRB > 0, p_nRB * (p_nRB.log() - log_q_nRB), 0).sum(-1).mean()


def mass_recall(mass_nRB: Tensor, scores_nRB: Tensor, candidates: Candidates, topk: int) -> Tensor:
    """fp32 scalar: the mass of the blocks that are chosen over that of the best ones, mean over queries and groups.

    `mass_nRB` is the mean over heads.
    """
    chosen, best = (candidates.chosen(by, topk) for by in (scores_nRB, mass_nRB))
    return ((mass_nRB * chosen).sum(-1) / (mass_nRB * best).sum(-1)).mean()


def _tiles(num_rows: int, elements_per_row: int) -> list[slice]:
    step = max(1, _TILE_ELEMENTS // elements_per_row)
    return [slice(start, start + step) for start in range(0, num_rows, step)]
