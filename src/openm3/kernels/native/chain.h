// Linear layers one after the other, with the norms between them, in one call: for a few rows a call from Python costs more
// than the product of a small layer.
#pragma once

#include <cstdint>
#include <vector>

#include "linear.h"

namespace openm3 {

struct Link {
    const float* norm;  // [inputs]: the input is the stream, normed with these; null: what the link before gave
    float eps;
    Weights weights;
    const uint8_t* weight;
    int64_t inputs, outputs;
    Output output;  // `added`: to the stream; else for the next link, or the caller
};

class Chain {
  public:
    void add(const Link& link) { links_.push_back(link); }

    // The first link reads `x`, bfloat16, unless it norms the stream. `stream` is [rows][its size]; `out` takes what the
    // last link gives, and may be null where that is added to the stream.
    void run(const uint16_t* x, int64_t x_stride, float* stream, void* out, int64_t rows, int num_threads) const;

  private:
    std::vector<Link> links_;
};

}  // namespace openm3
