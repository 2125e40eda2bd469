// out = x / sqrt(mean of x² + eps) * weight, row by row, rounded to what the next matrix product takes.
#pragma once

#include <cstdint>

#include "isa.h"

namespace openm3 {

struct RmsNormCall {
    DType dtype;          // of out
    const float* x;       // [rows][size]
    const float* weight;  // [size]
    void* out;            // [rows][size]
    int64_t rows, size;
    float eps;
    int num_threads;
};

}  // namespace openm3

OPENM3_DECLARE_KERNEL(rms_norm, RmsNormCall)
