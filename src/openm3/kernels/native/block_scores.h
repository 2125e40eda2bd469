// Exact scores: the largest product of each row with any key of a block.
#pragma once

#include "row_products.h"

namespace openm3::OPENM3_ISA {

template <class Element>
class BlockScores {
    using Word = typename Arithmetic<Element>::Word;
    static constexpr int kPerWord = Arithmetic<Element>::kPerWord;
    static constexpr bool kKeysInPlace = sizeof(Element) * kPerWord == sizeof(Word);

public:
    BlockScores(Arena& arena, int64_t rows, int64_t head_size)
        : head_size_(head_size),
          products_(arena, rows, head_size / kPerWord),
          keys_(arena.take<Word>(kKeysInPlace ? 0 : 4 * head_size)) {}

    void set_row(int64_t row, const Element* q) {
        for (int64_t i = 0; i < head_size_ / kPerWord; ++i) {
            products_.set_word(row, i, Arithmetic<Element>::query_word(q + i * kPerWord));
        }
    }

    // Takes the products with `count` keys that lie `stride` apart. The block at `next` is fetched into the cache
    // meanwhile.
    void score(const Element* keys, int64_t stride, int64_t count, const Element* next) {
        products_.start(-FLT_MAX);
        for (int64_t i = 0; i < count; i += 4) {
            const Word* four[4];
            for (int n = 0; n < 4; ++n) four[n] = words(keys + min(i + n, count - 1) * stride, n);
            products_.add(four, reinterpret_cast<const char*>(next + i * stride));
        }
    }

    // Of the last block scored: at least -FLT_MAX; NaN is never the largest.
    float best(int64_t row) const { return products_.peak(row); }

private:
    const Word* words(const Element* key, int n) {
        if constexpr (kKeysInPlace) return reinterpret_cast<const Word*>(key);
        for (int64_t c = 0; c < head_size_; c += kLanes) store(keys_ + n * head_size_ + c, load_floats(key + c));
        return keys_ + n * head_size_;
    }

    int64_t head_size_;
    RowProducts<Floats, typename Arithmetic<Element>::Vector> products_;
    Word* keys_;  // [4][C], where keys are widened
};

}  // namespace openm3::OPENM3_ISA
