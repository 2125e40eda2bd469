"""Native kernel, `native/block_mass.cpp`. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.backend import native
from openm3.kernels.block_mass.rows import WatchedRows
from openm3.kernels.native_call import DTYPES
from openm3.kernels.paged import PagedBatch


def block_mass(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    watched: WatchedRows,
    batch: PagedBatch,
    block_ids_TRN: Tensor | None,
    scale: float,
) -> Tensor:
    if q_THD.stride(2) != 1:
        q_THD = q_THD.contiguous()
    if k_cache_PRSD.stride(3) != 1:
        k_cache_PRSD = k_cache_PRSD.contiguous()
    if block_ids_TRN is not None:
        block_ids_TRN = block_ids_TRN.contiguous()
    num_groups, width = k_cache_PRSD.shape[1], batch.page_table_BP.shape[1]
    mass_WRB = torch.zeros(len(watched.row_W), num_groups, width)
    page_stride, head_stride, slot_stride, _ = k_cache_PRSD.stride()
    native().block_mass(
        DTYPES[q_THD.dtype],
        q_THD.data_ptr(),
        q_THD.stride(0),
        q_THD.stride(1),
        k_cache_PRSD.data_ptr(),
        page_stride,
        head_stride,
        slot_stride,
        mass_WRB.data_ptr(),
        q_THD.shape[1],
        num_groups,
        batch.page_size,
        q_THD.shape[2],
        scale,
        watched.row_W.data_ptr(),
        watched.sequence_W.data_ptr(),
        watched.position_W.data_ptr(),
        len(watched.row_W),
        batch.page_table_BP.data_ptr(),
        width,
        0 if block_ids_TRN is None else block_ids_TRN.data_ptr(),
        0 if block_ids_TRN is None else block_ids_TRN.shape[2],
        torch.get_num_threads(),
    )
    return mass_WRB
