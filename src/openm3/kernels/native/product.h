// The one inner loop of all kernels: a small product kept in registers.
#pragma once

#include "simd.h"

namespace openm3::OPENM3_ISA {

// sums[n][w] += sum over i of left[w] * right(i, n), where left(i, lanes) fills the vectors of a step and right(i, n) gives
// the address of one word (a float or a pair of bfloat16), which is broadcast to all lanes. No lane ever mixes with another,
// and a lane adds its terms in the order of i: a lane's result does not depend on W, N or what the others hold.
// Meanwhile `bytes` of memory a step are fetched into the cache, from `ahead` on.
template <class Vector, int W, int N, class Left, class Right>
INLINE void add_product(Floats (&sums)[N][W], int64_t depth, const Left& left, const Right& right, const void* ahead,
                        int64_t bytes) {
    for (int64_t i = 0; i < depth; ++i) {
        for (int64_t line = 0; line < bytes; line += 64) {
            __builtin_prefetch(static_cast<const char*>(ahead) + i * bytes + line);
        }
        Vector lanes[W];
        left(i, lanes);
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) {
            const Vector word = splat(*right(i, n));
#pragma GCC unroll 16
            for (int w = 0; w < W; ++w) sums[n][w] = dot(sums[n][w], lanes[w], word);
        }
    }
}

}  // namespace openm3::OPENM3_ISA
