"""What MSA is measured against on a GPU: torch's fused dense attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def dense_calls(q_THD: Tensor, k_RLD: Tensor, v_RLD: Tensor) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Name and call of each of torch's ways from T queries to L tokens.

    Every query sees all keys, and the heads of a group are more rows of one head ("grouped"), which reads a key once
    for all of them: no mask slows a peer down. Keys and values lie as each way likes best, which is not timed.
    """
    groups = k_RLD.shape[0]
    q, k, v = q_THD.transpose(0, 1)[None].contiguous(), k_RLD[None], v_RLD[None]
    rows = q.reshape(1, groups, -1, q.shape[-1])
    for name, backend in BACKENDS.items():

        def attend(query: Tensor, grouped: bool, backend: SDPBackend = backend) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(query, k, v, enable_gqa=not grouped)

        yield f"{name} grouped", lambda attend=attend: attend(rows, True)
        yield f"{name} gqa", lambda attend=attend: attend(q, False)


def flex_calls(q_THD: Tensor, k_RLD: Tensor, v_RLD: Tensor) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """FlexAttention with a causal block mask over the whole context; the queries are its last tokens."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = q_THD.transpose(0, 1)[None].contiguous(), k_RLD[None], v_RLD[None]
    num_queries, length = q.shape[2], k.shape[2]
    first = length - num_queries
    mask = create_block_mask(lambda b, h, i, j: i + first >= j, None, None, num_queries, length, device=str(q.device))
    compiled = torch.compile(flex_attention, dynamic=False)
    yield "flex", lambda: compiled(q, k, v, block_mask=mask, enable_gqa=True)
