// Exact scores: the largest product of each row with any key of a block.
#pragma once

#include <cfloat>

#include "row_products.h"

namespace openm3::OPENM3_ISA {

template <class Element>
class BlockScores {
    using Word = typename Arithmetic<Element>::Word;

public:
    BlockScores(Arena& arena, int64_t rows, int64_t head_size)
        : head_size_(head_size),
          peaks_(arena, rows, head_size / Arithmetic<Element>::kPerWord),
          widened_(arena.take<Word>(Arithmetic<Element>::kInPlace ? 0 : 4 * head_size)) {}

    void set_rows(int64_t rows) { peaks_.set_rows(rows); }
    void set_row(int64_t row, const Element* q) { peaks_.set_row(row, words(q, 0)); }

    // Takes the products with `count` keys that lie `stride` apart. The block at `next` is fetched into the cache
    // meanwhile.
    void score(const Element* keys, int64_t stride, int64_t count, const Element* next) {
        peaks_.start(-FLT_MAX);
        for (int64_t i = 0; i < count; i += 4) {
            const Word* four[4];
            for (int n = 0; n < 4; ++n) four[n] = words(keys + min(i + n, count - 1) * stride, n);
            peaks_.add(four, next + i * stride);
        }
    }

    // Of the last block scored: at least -FLT_MAX; NaN is never the largest.
    float best(int64_t row) const { return peaks_.peak(row); }

private:
    const Word* words(const Element* from, int n) {
        return Arithmetic<Element>::words(from, head_size_, widened_ + n * head_size_);
    }

    int64_t head_size_;
    RowPeaks<Floats, typename Arithmetic<Element>::Vector> peaks_;
    Word* widened_;  // [4][C], where keys are widened
};

}  // namespace openm3::OPENM3_ISA
