// y = x W^T for bfloat16 x and W, fp32 sums.
#pragma once

#include <cstdint>

#include "isa.h"

namespace openm3 {

// Outputs whose weights lie together: for every pair of inputs, one word (two bfloat16) of each of the 32.
constexpr int kPanel = 32;

enum class Output {
    bfloat16,  // out = y
    float32,   // out = y
    added,     // out += y, float
    gated,     // out = silu(first half of y) * second half, bfloat16; panels of both halves take turns
};

struct LinearCall {
    const uint32_t* weight;  // [panels][inputs / 2][kPanel] words
    const uint16_t* x;       // [rows][inputs] bfloat16
    void* out;               // [rows][outputs]
    int64_t x_stride, out_stride;
    int64_t rows, inputs, outputs;
    Output output;
    int num_threads;
};

}  // namespace openm3

OPENM3_DECLARE_KERNEL(linear, LinearCall)
