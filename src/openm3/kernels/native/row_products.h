// The largest product of each of a few rows with any of many keys. A vector holds some rows with four lanes each, of
// which every lane takes each fourth word; so a load of four words of a key serves all rows, and one row alone is no
// slower than four. A row adds its terms in one order, whatever else is in the call.
#pragma once

#include "attention_tile.h"
#include "simd_fours.h"

namespace openm3::OPENM3_ISA {

// Sum and Vector are Floats and Floats; Floats and Words, pairs of bfloat16; Ints and Words, four bytes.
template <class Sum, class Vector>
class RowProducts {
public:
    using Number = decltype(Sum{}[0] + 0);
    using Word = decltype(Vector{}[0] + 0);

    // `words` of a row or key: a multiple of 4.
    RowProducts(Arena& arena, int64_t rows, int64_t words)
        : vectors_(divide_up(rows, kFours)),
          steps_(words / 4),
          wide_(vectors_ / kWide * kWide),
          rows_(arena.take<Word>(vectors_ * kLanes * steps_)),
          peaks_(arena.take<Number>(vectors_ * kLanes)) {}

    void set_word(int64_t row, int64_t i, Word word) {
        const int64_t vector = row / kFours, lane = row % kFours * 4 + i % 4;
        const int64_t place = vector < wide_ ? (vector / kWide * steps_ + i / 4) * kWide + vector % kWide
                                             : vector * steps_ + i / 4;
        rows_[place * kLanes + lane] = word;
    }

    void start(Number least) {
        for (int64_t i = 0; i < vectors_ * kLanes; ++i) peaks_[i] = least;
    }

    // Raises the peaks to the products with four keys; one that is NaN raises none. As many bytes as the keys have are
    // fetched from `ahead` meanwhile.
    void add(const Word* const (&keys)[4], const char* ahead) {
        for (int64_t vector = 0; vector < wide_; vector += kWide) add<kWide>(vector, keys, ahead);
        for (int64_t vector = wide_; vector < vectors_; ++vector) add<1>(vector, keys, ahead);
    }

    Number peak(int64_t row) const {
        const Number* lanes = peaks_ + row * 4;
        const auto larger = [](Number a, Number b) { return a > b ? a : b; };
        return larger(larger(lanes[0], lanes[1]), larger(lanes[2], lanes[3]));
    }

private:
    static constexpr int kWide = kSums / 4;  // vectors that share the loads of keys

    template <int W>
    void add(int64_t vector, const Word* const (&keys)[4], const char* ahead) {
        const Word* rows = rows_ + vector * steps_ * kLanes;
        Sum sums[4][W] = {};
        for (int64_t i = 0; i < steps_; ++i) {
            if (vector == 0) __builtin_prefetch(ahead + i * 64);
            Vector lanes[W];
#pragma GCC unroll 4
            for (int w = 0; w < W; ++w) lanes[w] = load<Vector>(rows + (i * W + w) * kLanes);
#pragma GCC unroll 4
            for (int n = 0; n < 4; ++n) {
                const Vector four = splat_four<Vector>(keys[n] + i * 4);
#pragma GCC unroll 4
                for (int w = 0; w < W; ++w) sums[n][w] = dot(sums[n][w], lanes[w], four);
            }
        }
        for (int w = 0; w < W; ++w) {
            const Sum products = add_pairs(add_pairs(sums[0][w], sums[1][w]), add_pairs(sums[2][w], sums[3][w]));
            Number* to = peaks_ + (vector + w) * kLanes;
            const Sum peaks = load<Sum>(to);
            store(to, products > peaks ? products : peaks);
        }
    }

    int64_t vectors_, steps_;
    int64_t wide_;   // the first vectors, which are taken kWide at a time
    Word* rows_;     // [wide_ / kWide][steps][kWide][kLanes], then [steps][kLanes] for each of the others
    Number* peaks_;  // [vectors][kLanes], of every fourth key
};

}  // namespace openm3::OPENM3_ISA
