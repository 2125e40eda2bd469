// Causal attention over a paged cache: over all tokens, or over chosen blocks. Letters as in the op.py files: T packed
// query tokens, H query heads, R key/value heads, G = H / R heads a group, P pages, S page size, D head size, N chosen
// blocks, B sequences. Strides count elements.
#pragma once

#include <cstdint>

#include "isa.h"

namespace openm3 {

struct AttentionCall {
    DType dtype;
    const void* q;  // [T, H, D], contiguous in D
    int64_t q_token_stride, q_head_stride;
    const void *k, *v;  // [P, R, S, D], contiguous in D, of the same strides
    int64_t page_stride, head_stride, slot_stride;
    void* out;   // [T, H, D], contiguous
    float* lse;  // [T, H], natural logarithm of the sum of exponentials; may be null
    int64_t heads, kv_heads, page_size, head_size;
    float scale;

    const int32_t* query_start;  // [B + 1]
    const int32_t* context_len;  // [B]
    const int32_t* page_table;   // [B, table_width]
    int64_t sequences, table_width, num_pages;

    const int32_t* block_ids;  // [T, R, N], ascending, -1 on the right; null for dense attention
    int64_t blocks_per_query;

    int num_threads;
};

// Throws std::invalid_argument, in Python a ValueError, where a page or a chosen block does not exist.
void check_blocks(const AttentionCall& call);

}  // namespace openm3

OPENM3_DECLARE_KERNEL(dense_attention, AttentionCall)
OPENM3_DECLARE_KERNEL(sparse_attention, AttentionCall)
