// Which blocks of a paged cache a query reads: those with the highest score, the maximum of query · key over the
// block's tokens and the group's index heads. Letters as in select_blocks/op.py: T packed query tokens, J index query
// heads, X index key heads, R groups, P pages, S page size, C index head size, N chosen blocks, B sequences. Strides
// count elements.
#pragma once

#include <cstdint>

#include "attention.h"

namespace openm3 {

// What is known of the keys of a full page and head: key = centre + scale * byte + error.
struct PageBounds {
    float scale;
    float error;     // no key's error is longer
    float residual;  // no key's scale * byte is longer
    float length;    // neither a key nor the centre is longer; infinite where that can't be said
};

struct QuantisedKeys {
    uint8_t* keys;       // [P, X, G, C / 4, 16 tokens, 4 channels], 128 added; null where there are none
    float* centres;      // [P, X, C]
    PageBounds* bounds;  // [P, X]
};

struct SelectCall {
    DType dtype;
    const void* q;  // [T, J, C], contiguous in C
    int64_t q_token_stride, q_head_stride;
    const void* k;  // [P, X, S, C], contiguous in C
    int64_t page_stride, head_stride, slot_stride;
    int32_t* block_ids;  // [T, R, N]
    int64_t heads, key_heads, groups, page_size, head_size;
    int64_t blocks_per_query, init_blocks, local_blocks;

    const int32_t* query_start;  // [B + 1]
    const int32_t* context_len;  // [B]
    const int32_t* page_table;   // [B, table_width]
    const int32_t* topk;         // [B], of N how many a sequence chooses; null where all choose N
    int64_t sequences, table_width;

    QuantisedKeys quantised;
    int64_t* counts;  // with quantised keys: blocks bounded, blocks of them scored; added to

    int num_threads;
};

struct QuantiseCall {
    DType dtype;
    const void* k;
    int64_t page_stride, head_stride, slot_stride;
    int64_t key_heads, page_size, head_size;
    const int64_t* pages;  // the ones to quantise
    int64_t num_pages;
    QuantisedKeys quantised;
    int num_threads;
};

}  // namespace openm3

OPENM3_DECLARE_KERNEL(select_blocks, SelectCall)
OPENM3_DECLARE_KERNEL(quantise_keys, QuantiseCall)
