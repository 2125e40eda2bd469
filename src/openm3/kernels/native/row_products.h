// Products of a few rows with many keys. A vector holds some rows with four lanes each, of which every lane takes each
// fourth word; so a load of four words of a key serves all rows, and one row alone is no slower than four. A row adds its
// terms in one order, whatever else is in the call.
#pragma once

#include "arena.h"
#include "arithmetic.h"
#include "simd_fours.h"

namespace openm3::OPENM3_ISA {

// Sum and Vector are Floats and Floats; Floats and Words, pairs of bfloat16; Ints and Words, four bytes.
template <class Sum, class Vector>
class RowProducts {
public:
    using Word = decltype(Vector{}[0] + 0);

    // At most `rows`. `words` of a row or key: a multiple of 4.
    RowProducts(Arena& arena, int64_t rows, int64_t words)
        : steps_(words / 4), rows_(arena.take<Word>(divide_up(rows, kFours) * kLanes * steps_)) {
        set_rows(rows);
    }

    void set_rows(int64_t rows) { vectors_ = divide_up(rows, kFours); }
    int64_t vectors() const { return vectors_; }

    void set_row(int64_t row, const Word* words) {
        for (int64_t i = 0; i < steps_; ++i) {
            std::memcpy(rows_ + (row / kFours * steps_ + i) * kLanes + row % kFours * 4, words + i * 4, 4 * sizeof(Word));
        }
    }

    // take(vector, products) has the products of four keys with the rows of a vector: those of a row side by side. As many
    // bytes as the keys have are fetched from `ahead` meanwhile.
    template <class Take>
    void multiply(const Word* const (&keys)[4], const void* ahead, const Take& take) const {
        int64_t vector = 0;
        for (; vector + kWide <= vectors_; vector += kWide) multiply<kWide>(vector, keys, ahead, take);
        for (; vector < vectors_; ++vector) multiply<1>(vector, keys, ahead, take);
    }

private:
    static constexpr int kWide = kSums / 4;  // vectors that share the loads of keys

    template <int W, class Take>
    INLINE void multiply(int64_t vector, const Word* const (&keys)[4], const void* ahead, const Take& take) const {
        const Word* rows = rows_ + vector * steps_ * kLanes;
        Sum sums[4][W] = {};
        for (int64_t i = 0; i < steps_; ++i) {
            if (vector == 0) __builtin_prefetch(static_cast<const char*>(ahead) + i * 64);
            Vector lanes[W];
#pragma GCC unroll 4
            for (int w = 0; w < W; ++w) lanes[w] = load<Vector>(rows + (w * steps_ + i) * kLanes);
#pragma GCC unroll 4
            for (int n = 0; n < 4; ++n) {
                const Vector four = splat_four<Vector>(keys[n] + i * 4);
#pragma GCC unroll 4
                for (int w = 0; w < W; ++w) sums[n][w] = dot(sums[n][w], lanes[w], four);
            }
        }
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) {
            take(vector + w, add_pairs(add_pairs(sums[0][w], sums[1][w]), add_pairs(sums[2][w], sums[3][w])));
        }
    }

    int64_t steps_, vectors_;
    Word* rows_;  // [vectors][steps][kLanes]
};

// The largest product of each row with any of the keys; one that is NaN is never the largest.
template <class Sum, class Vector>
class RowPeaks : public RowProducts<Sum, Vector> {
public:
    using Number = decltype(Sum{}[0] + 0);
    using typename RowProducts<Sum, Vector>::Word;

    RowPeaks(Arena& arena, int64_t rows, int64_t words)
        : RowProducts<Sum, Vector>(arena, rows, words), peaks_(arena.take<Number>(round_up(rows, kFours) * 4)) {}

    void start(Number least) {
        for (int64_t i = 0; i < this->vectors() * kLanes; ++i) peaks_[i] = least;
    }

    void add(const Word* const (&keys)[4], const void* ahead) {
        this->multiply(keys, ahead, [&](int64_t vector, Sum products) {
            const Sum peaks = load<Sum>(peaks_ + vector * kLanes);
            store(peaks_ + vector * kLanes, products > peaks ? products : peaks);
        });
    }

    Number peak(int64_t row) const {
        const Number* lanes = peaks_ + row * 4;
        const auto larger = [](Number a, Number b) { return a > b ? a : b; };
        return larger(larger(lanes[0], lanes[1]), larger(lanes[2], lanes[3]));
    }

private:
    Number* peaks_;  // [vectors][kLanes], of every fourth key
};

}  // namespace openm3::OPENM3_ISA
