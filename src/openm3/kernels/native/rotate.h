// What stands between the projection of a layer's queries, keys and values and its attention: queries and keys are
// normed and rotated (pairs i and i + E), keys and values go to their pages. Letters as in attention.h; E <= D/2.
#pragma once

#include <cstdint>

#include "isa.h"

namespace openm3 {

struct RotateCall {
    DType dtype;
    const void* heads;  // [T, H + 2R, D]: queries, keys, values if any; contiguous but for the stride of a token
    int64_t token_stride;
    const float *cos, *sin;  // [T, E]
    const float *q_scale, *k_scale;  // [D], of the norms; null where there are none
    float eps;
    bool turns_queries;  // else only the keys are rotated
    void* q;      // [T, H, D]
    void *k, *v;  // [P, R, S, D], contiguous in D, of the same strides; v is null where there are no values
    int64_t page_stride, head_stride, slot_stride;
    int64_t num_heads, kv_heads, page_size, head_size, pairs;

    const int32_t* query_start;  // [B + 1]
    const int32_t* context_len;  // [B]
    const int32_t* page_table;   // [B, table_width]
    int64_t sequences, table_width;
    int num_threads;
};

}  // namespace openm3

OPENM3_DECLARE_KERNEL(rotate, RotateCall)
