// y = x W^T for bfloat16 x, fp32 sums. W is in bfloat16, or in numbers of 8 or 4 bits that are widened to it.
#pragma once

#include <cstdint>

#include "isa.h"

namespace openm3 {

// Outputs whose weights lie together.
constexpr int kPanel = 32;
// Inputs of an output that share a scale.
constexpr int kGroup = 32;

// What a panel is made of.
enum class Weights {
    // For every pair of inputs a word (two bfloat16) of each output.
    bfloat16,
    // For every group of inputs: float16 scales of the outputs, then for every pair of inputs two signed bytes of each
    // output. A weight is bfloat16(scale * code).
    int8,
    // For every group of inputs: float16 scales of the outputs, float16 offsets, then for every pair of inputs one byte
    // of each output. Of 16 outputs, the codes of the first 8 are in the low halves of their bytes, one input after the
    // other, and those of the others in the high halves. A weight is bfloat16(scale * code + offset).
    int4,
};

enum class Output {
    bfloat16,  // out = y
    float32,   // out = y
    added,     // out += y, float
    gated,     // out = silu(first half of y) * second half, bfloat16; panels of both halves take turns
};

struct LinearCall {
    Weights weights;
    const uint8_t* weight;  // panels
    const uint16_t* x;      // [rows][inputs] bfloat16
    void* out;              // [rows][outputs]
    int64_t x_stride, out_stride;
    int64_t rows, inputs, outputs;
    Output output;
    int num_threads;
};

}  // namespace openm3

OPENM3_DECLARE_KERNEL(linear, LinearCall)
