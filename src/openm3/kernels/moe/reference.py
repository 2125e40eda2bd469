"""The definition, one token and expert at a time. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.config import SwigluOAI
from openm3.kernels.swiglu import swiglu_oai


def experts(
    x_TC: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    w1_EIC: Tensor,
    w2_ECI: Tensor,
    w3_EIC: Tensor,
    swiglu: SwigluOAI,
    first_expert: int,
    add_to_TC: Tensor,
) -> Tensor:
    dtype = w1_EIC.dtype
    for t, x_C in enumerate(x_TC.to(dtype)):
        for expert_id, weight in zip(expert_ids_TK[t].tolist(), weights_TK[t], strict=True):
            e = expert_id - first_expert
            if not 0 <= e < len(w1_EIC):
                continue
            gate_I, up_I = w1_EIC[e] @ x_C, w3_EIC[e] @ x_C
            hidden_I = (swiglu_oai(gate_I, up_I, swiglu) * weight).to(dtype)
            add_to_TC[t] += w2_ECI[e] @ hidden_I
    return add_to_TC


def choose_experts(logits_TE: Tensor, bias_E: Tensor, num_chosen: int, scale: float) -> tuple[Tensor, Tensor]:
    scores_TE = 1 / (1 + torch.exp(-logits_TE))
    ids_TK = (scores_TE + bias_E).sort(dim=-1, descending=True, stable=True).indices[:, :num_chosen]
    chosen_TK = scores_TE.gather(1, ids_TK)
    return ids_TK, chosen_TK / chosen_TK.sum(-1, keepdim=True) * scale
