// One tile of attention: up to 64 query rows (pairs of token and head that read one key/value head) times the keys of
// one stretch of positions. Its result is partial: the peak of the scores, the sum of the exponentials, and the values
// mixed with them; partial results of one row are merged in the order of positions.
//
// Keys and values are used where they lie, so the tile of a decode step reads each of them once and writes nothing of
// them. A row has its own lanes in the scores and its own registers in the mix: its bits do not depend on which rows share
// its tile.
#pragma once

#include <cfloat>

#include "attention.h"
#include "product.h"
#include "row_products.h"

namespace openm3::OPENM3_ISA {

constexpr int kMaxRows = 64;   // of a tile
constexpr int kMaxKeys = 256;  // of a tile; also the largest page

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

// Partial results of some rows. Scores are scaled and in units of log2, so that the exponential is 2^x.
struct Partial {
    float* peak;   // [rows]
    float* total;  // [rows]
    float* mixed;  // [rows][D]

    static Partial take(Arena& arena, int64_t rows, int64_t head_size) {
        // Reading the peaks of a few rows as a whole vector may run over.
        return {arena.take<float>(rows + kLanes), arena.take<float>(rows), arena.take<float>(rows * head_size)};
    }

    // Nothing seen yet: merging leaves exactly the other side.
    void clear(int64_t rows, int64_t head_size) const {
        for (int64_t i = 0; i < rows; ++i) peak[i] = -FLT_MAX;
        for (int64_t i = 0; i < rows; ++i) total[i] = 0;
        for (int64_t i = 0; i < rows * head_size; ++i) mixed[i] = 0;
    }
};

// Adds `count` rows of `from`, beginning with row `first`, to the first ones of `into`.
inline void merge(Partial into, Partial from, int64_t first, int64_t count, int64_t head_size) {
    for (int64_t begin = 0; begin < count; begin += kLanes) {
        const Floats old_peak = load<Floats>(into.peak + begin), new_peak = load<Floats>(from.peak + first + begin);
        const Floats peak = max(old_peak, new_peak);
        const Floats keep = exp2(old_peak - peak), share = exp2(new_peak - peak);
        for (int64_t i = 0; i < min(count - begin, kLanes); ++i) {
            const int64_t row = begin + i;
            const float* added = from.mixed + (first + row) * head_size;
            float* mixed = into.mixed + row * head_size;
            into.peak[row] = peak[i];
            into.total[row] = into.total[row] * keep[i] + from.total[first + row] * share[i];
            for (int64_t d = 0; d < head_size; d += kLanes) {
                const Floats more = load<Floats>(added + d) * splat(share[i]);
                store(mixed + d, multiply_add(load<Floats>(mixed + d), splat(keep[i]), more));
            }
        }
    }
}

// The pages of one sequence as one key/value head sees them.
template <class Element>
struct Pages {
    const Element *k, *v;
    const int32_t* table;
    int64_t page_stride, slot_stride, page_size;

    Pages(const AttentionCall& call, int64_t sequence, int64_t kv_head)
        : k(static_cast<const Element*>(call.k) + kv_head * call.head_stride),
          v(static_cast<const Element*>(call.v) + kv_head * call.head_stride),
          table(call.page_table + sequence * call.table_width),
          page_stride(call.page_stride),
          slot_stride(call.slot_stride),
          page_size(call.page_size) {}

    int64_t offset(int64_t position) const {
        return table[position / page_size] * page_stride + position % page_size * slot_stride;
    }
};

template <class Element>
class Tile {
    using Word = typename Arithmetic<Element>::Word;
    using Vector = typename Arithmetic<Element>::Vector;
    static constexpr int kPerWord = Arithmetic<Element>::kPerWord;

public:
    Tile(Arena& arena, int64_t head_size, float scale)
        : head_size_(head_size),
          scale_(scale * kLog2E),
          products_(arena, kMaxRows, head_size / kPerWord),
          last_(arena.take<int32_t>(kMaxRows * 4)),
          widened_(arena.take<Word>(Arithmetic<Element>::kInPlace ? 0 : 4 * head_size)),
          nothing_(arena.take<Element>(head_size)),
          scores_(arena.take<float>(kMaxKeys * kMaxRows)),
          weights_(arena.take<Word>(kMaxKeys / kPerWord * kMaxRows)),
          partial_(Partial::take(arena, kMaxRows, head_size)) {
        for (int64_t d = 0; d < head_size && !arena.measures(); ++d) nothing_[d] = Element{};
    }

    // Forgets the rows. What there is beyond `rows` in the last vector, nobody looks at.
    void start(int64_t rows) {
        rows_ = rows;
        products_.set_rows(rows);
        for (int64_t i = rows * 4; i < products_.vectors() * kLanes; ++i) last_[i] = INT32_MAX;
    }

    // Rows `first` to `first + count - 1` are heads, `head_stride` apart, of one token at position `last`.
    void set_rows(int64_t first, int64_t count, const Element* q, int64_t head_stride, int64_t last) {
        for (int64_t i = 0; i < count; ++i) {
            products_.set_row(first + i, Arithmetic<Element>::words(q + i * head_stride, head_size_, widened_));
        }
        for (int64_t i = first * 4; i < (first + count) * 4; ++i) last_[i] = static_cast<int32_t>(last);
    }

    // The partial result over positions `first` to `first + count - 1`, valid until the next call. Keys from
    // position `next` on are fetched into the cache meanwhile.
    Partial attend(const Pages<Element>& pages, int64_t first, int64_t count, int64_t next) {
        const Element *keys[kMaxKeys], *values[kMaxKeys + 3];
        for (int64_t done = 0; done < count;) {
            const int64_t offset = pages.offset(first + done);
            const int64_t end = min(done + pages.page_size - (first + done) % pages.page_size, count);
            for (int64_t i = 0; done < end; ++i, ++done) {
                keys[done] = pages.k + offset + i * pages.slot_stride;
                values[done] = pages.v + offset + i * pages.slot_stride;
            }
        }
        for (int64_t i = count; i < round_up(count, 4); ++i) values[i] = nothing_;
        score(keys, count, values);
        weigh(first, count);
        mix(values, count, pages.k + pages.offset(next));
        return partial_;
    }

private:
    // Scores of four keys: a vector for each vector of rows, with four lanes a row.
    float* scores(int64_t key, int64_t vector) { return scores_ + (key / 4 * products_.vectors() + vector) * kLanes; }

    int64_t padded_rows() const { return products_.vectors() * kFours; }

    // Fetches the values meanwhile.
    void score(const Element* const* keys, int64_t count, const Element* const* values) {
        for (int64_t key = 0; key < count; key += 4) {
            const Word* four[4];
            for (int64_t n = 0; n < 4; ++n) {
                Word* const wide = widened_ + n * head_size_;
                four[n] = Arithmetic<Element>::words(keys[min(key + n, count - 1)], head_size_, wide);
            }
            products_.multiply(four, values[key], [&](int64_t vector, Floats products) {
                store(scores(key, vector), products * splat(scale_));
            });
        }
    }

    // Weights 2^(score - peak) of the scores, laid out as words for the product with the values.
    void weigh(int64_t first, int64_t count) {
        for (int64_t vector = 0; vector < products_.vectors(); ++vector) {
            hide(vector, first, count);
            Floats peak = splat(-FLT_MAX), total = {};
            for (int64_t key = 0; key < count; key += 4) peak = max(peak, load<Floats>(scores(key, vector)));
            peak = max_of_fours(peak);
            for (int64_t key = 0; key < count; key += 4) {
                const Floats weights = exp2(load<Floats>(scores(key, vector)) - peak);
                total += weights;
                Arithmetic<Element>::store_weights(weights_ + key / kPerWord * padded_rows() + vector * kFours, padded_rows(), weights);
            }
            total = sum_of_fours(total);
            for (int i = 0; i < kFours; ++i) {
                partial_.peak[vector * kFours + i] = peak[i * 4];
                partial_.total[vector * kFours + i] = total[i * 4];
            }
        }
    }

    // Takes away the scores of what a row doesn't see: later positions, and keys behind the last.
    void hide(int64_t vector, int64_t first, int64_t count) {
        const Ints last = load<Ints>(last_ + vector * kLanes);
        int32_t least = INT32_MAX;
        for (int i = 0; i < kLanes; ++i) least = last[i] < least ? last[i] : least;
        const int64_t seen_by_all = min(least - first + 1, count);
        for (int64_t key = (seen_by_all < 0 ? 0 : seen_by_all) / 4 * 4; key < count; key += 4) {
            const Ints number = splat(static_cast<int32_t>(key)) + lane_of_four();
            const Ints position = number + splat(static_cast<int32_t>(first));
            const Floats hidden = splat(-__builtin_inff());
            const Floats seen = position > last ? hidden : load<Floats>(scores(key, vector));
            store(scores(key, vector), number >= splat(static_cast<int32_t>(count)) ? hidden : seen);
        }
    }

    // As many rows at a time as registers hold sums of. The first ones fetch half of the keys each.
    void mix(const Element* const* values, int64_t count, const Element* ahead) {
        constexpr int kMany = kSums / 2;
        const int64_t half = count * head_size_ / 2;
        int64_t row = 0;
        const auto next = [&] { return row < 2 * kMany ? ahead + row / kMany * half : values[0]; };
        for (; row + kMany <= padded_rows(); row += kMany) mix_rows<kMany>(row, values, count, next());
        for (; row < rows_; row += kFours) mix_rows<kFours>(row, values, count, next());
    }

    template <int N>
    void mix_rows(int64_t row, const Element* const* values, int64_t count, const Element* ahead) {
        constexpr int kColumns = kSums / N;  // vectors of them
        int64_t d = 0;
        for (; d + kColumns * kLanes <= head_size_; d += kColumns * kLanes) {
            mix_columns<N, kColumns>(row, d, values, count, ahead + d * count / 2);
        }
        for (; d < head_size_; d += kLanes) mix_columns<N, 1>(row, d, values, count, ahead + d * count / 2);
    }

    template <int N, int W>
    __attribute__((noinline)) void mix_columns(int64_t row, int64_t d, const Element* const* values, int64_t count, const Element* ahead) {
        const Word* const weights = weights_ + row;
        const int64_t stride = padded_rows();
        Floats sums[N][W] = {};
        add_product<Vector>(sums, divide_up(count, kPerWord), [&](int64_t i, Vector (&lanes)[W]) {
            Arithmetic<Element>::load_columns(values + i * kPerWord, d, lanes);
        }, [&](int64_t i, int n) { return weights + i * stride + n; }, ahead, W * kLanes * kPerWord * sizeof(Element) / 2);
        for (int n = 0; n < N; ++n) {
            for (int w = 0; w < W; ++w) store(partial_.mixed + (row + n) * head_size_ + d + w * kLanes, sums[n][w]);
        }
    }

    int64_t head_size_;
    float scale_;
    RowProducts<Floats, Vector> products_;
    int32_t* last_;     // [rows][4], the last position that a row sees
    Word* widened_;     // [4][D], a query or four keys, where a word is no piece of one
    Element* nothing_;  // [D], the values behind the last key
    float* scores_;     // [keys / 4][vectors of rows][kLanes]
    Word* weights_;     // [keys / kPerWord][rows]
    Partial partial_;
    int64_t rows_ = 0;
};

// Divides by the totals and writes `count` rows, heads of one token.
template <class Element>
void finish(Partial partial, int64_t first, int64_t count, int64_t head_size, Element* out, float* lse) {
    for (int64_t row = first; row < first + count; ++row, out += head_size) {
        const float scale = 1 / partial.total[row];
        for (int64_t d = 0; d < head_size; d += kLanes) {
            store_floats(out + d, load<Floats>(partial.mixed + row * head_size + d) * splat(scale));
        }
        if (lse) *lse++ = kLn2 * (partial.peak[row] + __builtin_log2f(partial.total[row]));
    }
}

}  // namespace openm3::OPENM3_ISA
