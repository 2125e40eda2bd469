"""Native kernel, `native/select_blocks.cpp`. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.config import SparseConfig
from openm3.kernels import native_call
from openm3.kernels.backend import native
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks.quantised import QuantisedIndex


def select_blocks(
    index_q_TJC: Tensor,
    index_k_cache_PXSC: Tensor,
    batch: PagedBatch,
    sparse: SparseConfig,
    num_groups: int,
    topk_B: Tensor | None = None,
    quantised: QuantisedIndex | None = None,
) -> Tensor:
    if index_q_TJC.stride(2) != 1:
        index_q_TJC = index_q_TJC.contiguous()
    if index_k_cache_PXSC.stride(3) != 1:
        index_k_cache_PXSC = index_k_cache_PXSC.contiguous()
    num_tokens, num_heads, head_size = index_q_TJC.shape
    block_ids_TRN = torch.empty((num_tokens, num_groups, sparse.index_topk_blocks), dtype=torch.int32)
    native().select_blocks(
        native_call.DTYPES[index_q_TJC.dtype],
        index_q_TJC.data_ptr(),
        *index_q_TJC.stride()[:2],
        index_k_cache_PXSC.data_ptr(),
        *index_k_cache_PXSC.stride()[:3],
        block_ids_TRN.data_ptr(),
        num_heads,
        index_k_cache_PXSC.shape[1],
        num_groups,
        batch.page_size,
        head_size,
        sparse.index_topk_blocks,
        sparse.index_init_blocks,
        sparse.index_local_blocks,
        batch.query_start_B1.data_ptr(),
        batch.context_len_B.data_ptr(),
        batch.page_table_BP.data_ptr(),
        0 if topk_B is None else topk_B.data_ptr(),
        len(batch.context_len_B),
        batch.page_table_BP.shape[1],
        *(quantised.addresses if quantised else (0, 0, 0)),
        quantised.counts_2.data_ptr() if quantised else 0,
        torch.get_num_threads(),
    )
    return block_ids_TRN
