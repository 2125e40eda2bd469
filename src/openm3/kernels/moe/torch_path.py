"""Tokens sorted by expert once, then one product per expert that has tokens. Letters as in `op.py`; N = T * K."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openm3.config import SwigluOAI
from openm3.kernels.linear import PackedLinear
from openm3.kernels.swiglu import swiglu_oai


def experts(
    x_TC: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    gate_up: Sequence[PackedLinear],
    down: Sequence[PackedLinear],
    swiglu: SwigluOAI,
    first_expert: int,
    add_to_TC: Tensor,
) -> Tensor:
    num_tokens, num_chosen = expert_ids_TK.shape
    ids_N, order_N = expert_ids_TK.flatten().sort(stable=True)
    here = slice(*torch.searchsorted(ids_N, ids_N.new_tensor([first_expert, first_expert + len(down)])).tolist())
    ids_N, order_N = ids_N[here] - first_expert, order_N[here]
    if not len(ids_N):
        return add_to_TC
    token_N = order_N // num_chosen
    hit, counts = ids_N.unique_consecutive(return_counts=True)
    groups = list(zip(hit.tolist(), token_N.split(counts.tolist()), strict=True))
    gate_up_N2I = torch.cat([gate_up[e](x_TC if num_tokens == 1 else x_TC[tokens]) for e, tokens in groups])
    gate_NI, up_NI = gate_up_N2I.chunk(2, dim=-1)
    hidden_NI = swiglu_oai(gate_NI, up_NI, swiglu).mul_(weights_TK.flatten()[order_N, None])
    for (e, tokens), hidden_nI in zip(groups, hidden_NI.split(counts.tolist()), strict=True):
        if num_tokens == 1:
            add_to_TC = down[e](hidden_nI, add_to=add_to_TC)
        else:
            add_to_TC[tokens] = down[e](hidden_nI, add_to=add_to_TC[tokens])
    return add_to_TC


def choose_experts(logits_TE: Tensor, bias_E: Tensor, num_chosen: int, scale: float) -> tuple[Tensor, Tensor]:
    scores_TE = logits_TE.sigmoid()
    ids_TK = (scores_TE + bias_E).topk(num_chosen, dim=-1).indices
    chosen_TK = scores_TE.gather(1, ids_TK)
    return ids_TK, chosen_TK.mul_(scale / chosen_TK.sum(-1, keepdim=True))
