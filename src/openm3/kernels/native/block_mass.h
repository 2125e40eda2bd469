// The share of each block in the softmax of attention, for a few query tokens. Letters as in block_mass/op.py: W watched
// tokens, H query heads, R key/value heads, G = H / R heads a group, N chosen blocks, B blocks of the longest sequence, P
// pages, S page size, D head size. Strides count elements.
#pragma once

#include <cstdint>

#include "isa.h"

namespace openm3 {

struct BlockMassCall {
    DType dtype;
    const void* q;  // [T, H, D], contiguous in D
    int64_t q_token_stride, q_head_stride;
    const void* k;  // [P, R, S, D], contiguous in D
    int64_t page_stride, head_stride, slot_stride;
    float* mass;  // [W, R, B], zeros
    int64_t heads, kv_heads, page_size, head_size;
    float scale;

    const int64_t* rows;                  // [W], of q
    const int32_t *sequences, *positions;  // [W]
    int64_t watched;
    const int32_t* page_table;  // [sequences, B]
    int64_t table_width;

    const int32_t* block_ids;  // [T, R, N], ascending, -1 on the right; null for all visible blocks
    int64_t blocks_per_query;

    int num_threads;
};

}  // namespace openm3

OPENM3_DECLARE_KERNEL(block_mass, BlockMassCall)
