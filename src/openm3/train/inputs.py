"""What a frozen model's layers tell of a window: their inputs, and the queries and keys of attention.

Letters: T tokens of the window, C hidden size, n sampled query tokens, H query heads, R key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from openm3.engine.runner import Runner
from openm3.kernels.paged import PagedBatch
from openm3.model.attention import norm_and_rotate
from openm3.model.batch import Batch
from openm3.model.decoder import DecoderLayer
from openm3.model.rope import Rotation, rotation


@dataclass(frozen=True)
class LayerInputs:
    """Of one layer and window.

    Attributes:
        layer: its number.
        x_TC: fp32, the normed input.
        q_nHD: queries of the sampled tokens, as attention has them.
        k_RTD: keys of all tokens, likewise.
        rotation: of all positions.
    """

    layer: int
    x_TC: Tensor
    q_nHD: Tensor
    k_RTD: Tensor
    rotation: Rotation


@torch.no_grad()
def read_window(runner: Runner, ids_T: Tensor, row_n: Tensor) -> Iterator[LayerInputs]:
    """Reads a window as one sequence through the model, and tells of one layer after the other.

    Of one layer alone is anything held, so memory is that of the layer.

    Args:
        runner: the model, dense; its cache is written.
        ids_T: int64, whole blocks of tokens.
        row_n: int64, the tokens whose queries are wanted.
    """
    decoder, cache = runner.decoder, runner.cache
    page_size, num_tokens = cache.layers[0].k_PRSD.shape[2], len(ids_T)
    num_pages, dtype = num_tokens // page_size, cache.layers[0].k_PRSD.dtype
    paged = PagedBatch.build([num_tokens], [num_tokens], [range(num_pages)], page_size)
    batch = Batch(ids_T, paged, torch.empty(0, dtype=torch.int64)).to(runner.device)
    rotated = rotation(decoder.inv_freq_E, paged.positions_on(runner.device))
    row_n = row_n.to(runner.device)
    of_rows = Rotation(rotated.cos_TE[row_n], rotated.sin_TE[row_n])
    x_TC: Tensor = decoder.embed_tokens(batch.token_ids_T).float()
    for number, (module, layer_cache) in enumerate(zip(decoder.layers, cache.layers, strict=True)):
        layer = cast(DecoderLayer, module)
        attention = layer.self_attn
        normed_TC = layer.input_layernorm(x_TC, dtype, decoder.backend)
        projected_nXD = attention.fused[0](normed_TC[row_n]).unflatten(-1, (-1, attention.head_dim))
        qk_nXD = projected_nXD[:, : attention.num_heads + attention.num_kv_heads]
        norms = (attention.q_norm, attention.k_norm) if attention.has_qk_norm else None
        q_nHD, _ = norm_and_rotate(qk_nXD, attention.num_heads, norms, of_rows, of_rows)
        x_TC = layer(x_TC, batch, layer_cache, rotated)
        k_RTD = layer_cache.k_PRSD[:num_pages].transpose(0, 1).flatten(1, 2)
        yield LayerInputs(number, normed_TC.float(), q_nHD, k_RTD, rotated)
