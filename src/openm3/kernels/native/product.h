// The one inner loop of all kernels: a small product kept in registers.
#pragma once

#include "simd.h"

namespace openm3::OPENM3_ISA {

// sums[n][w] += sum over i of left(i, w) * right(i, n), where left(i, w) gives the address of a vector and right(i, n)
// that of one word (a float or a pair of bfloat16), which is broadcast to all lanes. No lane ever mixes with another,
// and a lane adds its terms in the order of i: a lane's result does not depend on W, N or what the others hold.
// Meanwhile the memory at `ahead(i)` is fetched into the cache, for later.
template <class Vector, int W, int N, class Left, class Right, class Ahead>
INLINE void add_product(Floats (&sums)[N][W], int64_t depth, const Left& left, const Right& right,
                        const Ahead& ahead) {
    for (int64_t i = 0; i < depth; ++i) {
        __builtin_prefetch(ahead(i));  // here: GCC drops the call of a function that does nothing else
        Vector lanes[W];
#pragma GCC unroll 16
        for (int w = 0; w < W; ++w) lanes[w] = load<Vector>(left(i, w));
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) {
            const Vector word = splat(*right(i, n));
#pragma GCC unroll 16
            for (int w = 0; w < W; ++w) sums[n][w] = dot(sums[n][w], lanes[w], word);
        }
    }
}

}  // namespace openm3::OPENM3_ISA
