"""What MSA is measured against: torch's ways to dense attention, and transformers' own path through an M3 model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

# Torch repeats keys and values for each head of a group where it has no grouped kernel; not more than this.
_MOST_BYTES = 4 << 30


def dense_calls(q_THD: Tensor, k_RLD: Tensor, v_RLD: Tensor) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Name and call of each of torch's ways from T queries to a context of L tokens, one after the other in memory.

    Queries may see all keys: the last ones of a context may see all but the newest few, and a mask would only slow
    torch down. Keys and values lie as each way likes best, which is not timed.
    """
    groups, _, size = k_RLD.shape
    torch.compiler.reset()  # else torch stops compiling after eight shapes, and runs FlexAttention slowly
    compiled = torch.compile(flex_attention, dynamic=False)
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        q = q_THD.transpose(0, 1)[None].to(dtype)
        k, v = k_RLD[None].to(dtype), v_RLD[None].to(dtype)
        rows = q.reshape(1, groups, -1, size)
        if 2 * k.nbytes * (q.shape[1] // groups) <= _MOST_BYTES:
            yield f"sdpa {name}", lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        yield f"grouped sdpa {name}", lambda q=rows, k=k, v=v: F.scaled_dot_product_attention(q, k, v)
        yield (
            f"grouped products {name}",
            lambda q=rows, k=k, v=v: (q @ k.mT).mul_(size**-0.5).float().softmax(-1).to(v.dtype) @ v,
        )
        yield f"flex {name}", lambda q=rows, k=k, v=v: compiled(q, k, v)


def drop_in(context: int) -> dict[str, Any]:
    """Seconds to prefill a small M3 of `transformers`, by its `sdpa` path and by ours, of the same weights."""
    from transformers import MiniMaxM3VLTextConfig, MiniMaxM3VLTextModel

    import openm3.integrations.transformers as openm3_msa

    openm3_msa.register()
    torch.manual_seed(0)
    config = MiniMaxM3VLTextConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=256,
        dense_intermediate_size=512,
        shared_intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=128,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=context,
        layer_types=["minimax_m3_sparse"] * 2,
        mlp_layer_types=["dense", "sparse"],
        index_n_heads=1,
        index_head_dim=128,
        index_block_size=128,
        index_topk_blocks=16,
        rope_parameters={"rope_type": "default", "rope_theta": 5_000_000.0, "partial_rotary_factor": 0.5},
    )
    model: Any = MiniMaxM3VLTextModel(config).to(torch.bfloat16).eval()
    ids = torch.randint(512, (1, context))
    seconds, outputs = {}, {}
    for name in (openm3_msa.NAME, "sdpa"):
        model.set_attn_implementation(name)
        model(input_ids=ids[:, :256], use_cache=False)
        started = time.perf_counter()
        outputs[name] = model(input_ids=ids, use_cache=False).last_hidden_state
        seconds[name] = time.perf_counter() - started
    difference = (outputs["sdpa"].float() - outputs[openm3_msa.NAME].float()).abs().mean().item()
    scale = outputs["sdpa"].float().abs().mean().item()
    return {
        "context": context,
        "sdpa_s": seconds["sdpa"],
        "openm3_s": seconds[openm3_msa.NAME],
        "mean_difference": difference / scale,
        "times_faster": seconds["sdpa"] / seconds[openm3_msa.NAME],
    }
