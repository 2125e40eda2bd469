// One tile of attention: up to 64 query rows (pairs of token and head that read one key/value head) times the keys of
// one stretch of positions. Its result is partial: the peak of the scores, the sum of the exponentials, and the values
// mixed with them; partial results of one row are merged in the order of positions.
//
// Rows lie in lanes, so keys and values are broadcast from where they lie, the maximum and the sum over keys need no
// exchange between lanes, and a row's bits do not depend on which rows share its tile.
#pragma once

#include <cfloat>

#include "attention.h"
#include "product.h"

namespace openm3::OPENM3_ISA {

constexpr int kMaxVectors = 4;  // of rows in a tile
constexpr int kMaxRows = kMaxVectors * kLanes;
constexpr int kMaxKeys = 256;   // of a tile; also the largest page
constexpr int64_t kStrip = 32;  // columns of the values that are packed at a time

constexpr int vectors_of(int64_t rows) { return rows <= kLanes ? 1 : rows <= 2 * kLanes ? 2 : kMaxVectors; }

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

// How products with elements of the cache are computed: as floats, or as pairs of bfloat16 where the machine can. A word
// is what one lane holds: the weight of a key or of two, an element of a value row or of two.
template <class Element>
struct Arithmetic {
    using Word = float;
    using Vector = Floats;
    static constexpr int kPerWord = 1;

    static Word query_word(const Element* from) {
        const Element padded[kLanes] = {*from};
        return load_floats(padded)[0];
    }

    // The weights of two keys, as words `stride` apart.
    static void store_weights(float* to, int64_t stride, Floats even, Floats odd) {
        store(to, even);
        store(to + stride, odd);
    }

    static void store_value_words(Word* to, const Element* const (&rows)[1], int64_t d) {
        store(to, load_floats(rows[0] + d));
    }
};

#if defined(__AVX512BF16__)
template <>
struct Arithmetic<BFloat16> {
    using Word = uint32_t;
    using Vector = Words;
    static constexpr int kPerWord = 2;

    static Word query_word(const BFloat16* from) { return load<uint32_t>(from); }

    static void store_weights(float* to, int64_t, Floats even, Floats odd) {
        const __m512bh both = _mm512_cvtne2ps_pbh(bits_as<__m512>(odd), bits_as<__m512>(even));
        const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                               23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        store(to, _mm512_permutexvar_epi16(order, bits_as<__m512i>(both)));
    }

    static void store_value_words(Word* to, const BFloat16* const (&rows)[2], int64_t d) {
        const Words low = load_shorts(rows[0] + d), high = load_shorts(rows[1] + d);
        store(to, low | (high << 16));
    }
};
#endif

INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t round_up(int64_t value, int64_t multiple) { return divide_up(value, multiple) * multiple; }

// Cuts memory into pieces that begin at cache lines. Over null it only measures.
class Arena {
public:
    explicit Arena(char* start) : start_(start) {}

    template <class T>
    T* take(int64_t count) {
        char* piece = start_ + size_;
        size_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(T)), 64));
        return measures() ? nullptr : reinterpret_cast<T*>(piece);
    }

    bool measures() const { return !start_; }
    size_t taken() const { return size_; }

private:
    char* start_;
    size_t size_ = 0;
};

// Partial results of `rows` rows, rows side by side. Scores are scaled and in units of log2, so that the exponential is 2^x.
struct Partial {
    float* peak;   // [rows]
    float* total;  // [rows]
    float* mixed;  // [D][rows]
    int64_t rows;

    static Partial take(Arena& arena, int64_t rows, int64_t head_size) {
        // One vector more than needed: reading or writing whole vectors of a few rows may run over.
        float* memory = arena.take<float>(rows * (head_size + 2) + kLanes);
        return {memory, memory + rows, memory + 2 * rows, rows};
    }

    // The same memory for fewer rows.
    Partial narrowed(int64_t fewer) const { return {peak, peak + fewer, peak + 2 * fewer, fewer}; }

    // Nothing seen yet: merging leaves exactly the other side.
    void clear(int64_t head_size) const {
        for (int64_t i = 0; i < rows; ++i) peak[i] = -FLT_MAX;
        for (int64_t i = 0; i < rows * (head_size + 1); ++i) total[i] = 0;
    }
};

// Adds `count` rows of `from`, beginning with row `first`, to those of `into`; whole vectors, what lies behind is free.
inline void merge(Partial into, Partial from, int64_t first, int64_t count, int64_t head_size) {
    for (int64_t row = 0; row < count; row += kLanes) {
        const Floats old_peak = load<Floats>(into.peak + row), new_peak = load<Floats>(from.peak + first + row);
        const Floats peak = max(old_peak, new_peak);
        const Floats keep = exp2(old_peak - peak), share = exp2(new_peak - peak);
        const auto blend = [&](float* old_values, const float* new_values) {
            const Floats added = load<Floats>(new_values) * share;
            store(old_values, multiply_add(load<Floats>(old_values), keep, added));
        };
        store(into.peak + row, peak);
        blend(into.total + row, from.total + first + row);
        for (int64_t d = 0; d < head_size; ++d) {
            blend(into.mixed + d * into.rows + row, from.mixed + d * from.rows + first + row);
        }
    }
}

// What a product of N rows reads of its right side is 4 N bytes a step. Fetching the same amount of `memory`, all of it
// has come when the product is done.
template <int N>
INLINE const char* ahead_of(const void* memory, int64_t step) {
    return static_cast<const char*>(memory) + step * 4 * N;
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
public:
    using Word = typename Arithmetic<Element>::Word;
    using Vector = typename Arithmetic<Element>::Vector;
    static constexpr int kPerWord = Arithmetic<Element>::kPerWord;

private:
    static constexpr bool kKeysInPlace = sizeof(Element) * kPerWord == sizeof(Word);

public:
    Tile(Arena& arena, int64_t head_size, float scale)
        : head_size_(head_size),
          words_(head_size / kPerWord),
          scale_(scale * kLog2E),
          queries_(arena.take<Word>(words_ * kMaxRows + kLanes)),
          last_(arena.take<int32_t>(kMaxRows)),
          keys_(arena.take<Word>(kKeysInPlace ? 0 : (kMaxKeys + kSums) * head_size)),
          values_(arena.take<Word>(kMaxKeys / kPerWord * kStrip)),
          scores_(arena.take<float>((kMaxKeys + kSums) * kMaxRows)),
          partial_(Partial::take(arena, kMaxRows, head_size)) {}

    // Forgets the rows.
    void start(int64_t rows) {
        vectors_ = vectors_of(rows);
        partial_ = partial_.narrowed(vectors_ * kLanes);
        for (int64_t i = 0; i < words_ * partial_.rows; ++i) queries_[i] = 0;
        for (int64_t i = 0; i < partial_.rows; ++i) last_[i] = INT32_MAX;
    }

    // Rows `first` to `first + count - 1` are heads, `head_stride` apart, of one token at position `last`.
    void set_rows(int64_t first, int64_t count, const Element* q, int64_t head_stride, int64_t last) {
        pack_rows(queries_ + first, partial_.rows, count, q, head_stride);
        for (int64_t i = 0; i < count; ++i) last_[first + i] = static_cast<int32_t>(last);
    }

    // The same for several tokens that were packed before: for i < tokens, `count` heads of token chosen[i], which lie at
    // packed + chosen[i] * size, [words][stride]; the first token is at position `first_position`.
    void set_packed_rows(const int32_t* chosen, int64_t tokens, int64_t count, const Word* packed, int64_t size,
                         int64_t stride, int64_t first_position) {
        // Whole vectors are copied; what one writes too far, the next one overwrites.
        for (int64_t i = 0; i < words_; ++i) {
            for (int64_t token = 0; token < tokens; ++token) {
                const Word* from = packed + chosen[token] * size + i * stride;
                Word* to = queries_ + i * partial_.rows + token * count;
                for (int64_t row = 0; row < count; row += kLanes) store(to + row, load<Vector>(from + row));
            }
        }
        for (int64_t row = 0; row < tokens * count; ++row) {
            last_[row] = static_cast<int32_t>(first_position + chosen[row / count]);
        }
    }

    // Lays `count` rows side by side, word by word: [words][stride].
    void pack_rows(Word* packed, int64_t stride, int64_t count, const Element* q, int64_t head_stride) const {
        for (int64_t row = 0; row < count; ++row) {
            for (int64_t i = 0; i < words_; ++i) packed[i * stride + row] = Arithmetic<Element>::query_word(q + row * head_stride + i * kPerWord);
        }
    }

    // The partial result over positions `first` to `first + count - 1`, valid until the next call. Keys from
    // position `next` on are fetched into the cache meanwhile.
    Partial attend(const Pages<Element>& pages, int64_t first, int64_t count, int64_t next) {
        switch (vectors_) {
            case 1: attend<1>(pages, first, count, next); break;
            case 2: attend<2>(pages, first, count, next); break;
            default: attend<kMaxVectors>(pages, first, count, next);
        }
        return partial_;
    }

private:
    template <int W>
    void attend(const Pages<Element>& pages, int64_t first, int64_t count, int64_t next) {
        const Element* value_rows[kMaxKeys];
        for (int64_t done = 0; done < count;) {
            const int64_t offset = pages.offset(first + done);
            const int64_t readable = pages.page_size - (first + done) % pages.page_size;
            const int64_t run = min(readable, count - done);
            score_run<W>(pages.k + offset, pages.v + offset, pages.slot_stride, run, readable,
                         scores_ + done * partial_.rows);
            for (int64_t i = 0; i < run; ++i) value_rows[done + i] = pages.v + offset + i * pages.slot_stride;
            done += run;
        }
        weigh<W>(first, count);
        mix<W>(value_rows, count, pages.k + pages.offset(next));
    }

    // Scores of `count` keys that lie `stride` apart; `readable` of them may be read. Fetches the values meanwhile.
    template <int W>
    void score_run(const Element* k, const Element* v, int64_t stride, int64_t count, int64_t readable, float* scores) {
        constexpr int kKeys = kSums / W;
        for (int64_t i = 0; i < count;) {
            const Element *key = k + i * stride, *ahead = v + i * stride;
            float* to = scores + i * partial_.rows;
            // Scores of slots behind the last key land behind the last score, where nobody looks.
            if (i + kKeys <= readable) {
                score<W, kKeys>(key, stride, to, ahead);
                i += kKeys;
            } else {
                score<W, 1>(key, stride, to, ahead);
                i += 1;
            }
        }
    }

    template <int W, int N>
    void score(const Element* k, int64_t stride, float* scores, const Element* ahead) {
        const Word* keys;
        int64_t key_stride;
        if constexpr (kKeysInPlace) {
            keys = reinterpret_cast<const Word*>(k);
            key_stride = stride / kPerWord;
        } else {
            for (int n = 0; n < N; ++n) {
                for (int64_t d = 0; d < head_size_; d += kLanes) {
                    store(keys_ + n * head_size_ + d, load_floats(k + n * stride + d));
                }
            }
            keys = keys_;
            key_stride = head_size_;
        }
        Floats sums[N][W] = {};
        add_product<Vector>(sums, words_, [&](int64_t i, int w) { return queries_ + (i * W + w) * kLanes; },
                            [&](int64_t i, int n) { return keys + n * key_stride + i; },
                            [&](int64_t i) { return ahead_of<N>(ahead, i); });
        for (int n = 0; n < N; ++n) {
            for (int w = 0; w < W; ++w) store(scores + (n * W + w) * kLanes, sums[n][w] * splat(scale_));
        }
    }

    // Scores become weights 2^(score - peak), laid out as the left side of the product with the values.
    template <int W>
    void weigh(int64_t first, int64_t count) {
        bool all_visible = true;
        for (int64_t row = 0; row < partial_.rows; ++row) all_visible &= first + count - 1 <= last_[row];
        for (int w = 0; w < W; ++w) {
            float* scores = scores_ + w * kLanes;
            const auto at = [&](int64_t key) { return scores + key * W * kLanes; };
            if (!all_visible) {
                const Ints last = load<Ints>(last_ + w * kLanes) - static_cast<int32_t>(first);
                for (int64_t i = 0; i < count; ++i) {
                    const Floats score = load<Floats>(at(i));
                    store(at(i), splat(static_cast<int32_t>(i)) > last ? splat(-__builtin_inff()) : score);
                }
            }
            Floats peaks[2] = {splat(-FLT_MAX), splat(-FLT_MAX)}, totals[2] = {};  // of even and odd keys
            for (int64_t i = 0; i < count / 2; ++i) {
                peaks[0] = max(peaks[0], load<Floats>(at(2 * i)));
                peaks[1] = max(peaks[1], load<Floats>(at(2 * i + 1)));
            }
            if (count % 2) peaks[0] = max(peaks[0], load<Floats>(at(count - 1)));
            const Floats peak = max(peaks[0], peaks[1]);
            // Weights go where their scores were, or before: all scores until there have been read.
            for (int64_t i = 0; i < count; i += 2) {
                const Floats even = exp2(load<Floats>(at(i)) - peak);
                const Floats odd = i + 1 < count ? exp2(load<Floats>(at(i + 1)) - peak) : Floats{};
                totals[0] += even;
                totals[1] += odd;
                Arithmetic<Element>::store_weights(at(i / kPerWord), at(1) - at(0), even, odd);
            }
            store(partial_.peak + w * kLanes, peak);
            store(partial_.total + w * kLanes, totals[0] + totals[1]);
        }
    }

    // The values are packed strip by strip, which stays in the first-level cache until it has been used.
    template <int W>
    void mix(const Element* const* rows, int64_t count, const Element* ahead) {
        constexpr int kColumns = kSums / W;
        const int64_t depth = divide_up(count, kPerWord);
        const Word* weights = reinterpret_cast<const Word*>(scores_);
        for (int64_t strip = 0; strip < head_size_; strip += kStrip) {
            const int64_t width = min(kStrip, head_size_ - strip);
            pack_values(rows, count, strip, width);
            for (int64_t d = 0; d < width; d += kColumns) {
                Floats sums[kColumns][W] = {};
                add_product<Vector>(sums, depth, [&](int64_t i, int w) { return weights + (i * W + w) * kLanes; },
                                    [&](int64_t i, int n) { return values_ + i * kStrip + d + n; },
                                    [&](int64_t i) {
                                        return ahead_of<kColumns>(ahead, (strip + d) / kColumns * depth + i);
                                    });
                float* mixed = partial_.mixed + (strip + d) * partial_.rows;
                for (int n = 0; n < kColumns; ++n) {
                    for (int w = 0; w < W; ++w) store(mixed + (n * W + w) * kLanes, sums[n][w]);
                }
            }
        }
    }

    // Columns `strip` to `strip + width - 1` of the value rows, as words.
    void pack_values(const Element* const* rows, int64_t count, int64_t strip, int64_t width) {
        static const Element nothing[kStrip] = {};
        Word* to = values_;
        for (int64_t i = 0; i < count; i += kPerWord, to += kStrip) {
            const Element* together[kPerWord];
            for (int j = 0; j < kPerWord; ++j) together[j] = i + j < count ? rows[i + j] + strip : nothing;
            for (int64_t d = 0; d < width; d += kLanes) Arithmetic<Element>::store_value_words(to + d, together, d);
        }
    }

    int64_t head_size_, words_;
    float scale_;
    Word* queries_;  // [words][rows]
    int32_t* last_;  // [rows], the last position that a row sees
    Word* keys_;     // [keys of a product][D], where keys are widened
    Word* values_;   // [keys / kPerWord][kStrip]
    float* scores_;  // [keys][rows], then weights
    Partial partial_;
    int vectors_ = 1;
};

// Divides by the totals and writes `count` rows, heads of one token.
template <class Element>
void finish(Partial partial, int64_t first, int64_t count, int64_t head_size, Element* out, float* lse) {
    for (int64_t row = first; row < first + count; ++row, out += head_size) {
        const float scale = 1 / partial.total[row];
        for (int64_t d = 0; d < head_size; d += kLanes) {
            Floats values;
            for (int i = 0; i < kLanes; ++i) values[i] = partial.mixed[(d + i) * partial.rows + row];
            store_floats(out + d, values * splat(scale));
        }
        if (lse) *lse++ = kLn2 * (partial.peak[row] + __builtin_log2f(partial.total[row]));
    }
}

}  // namespace openm3::OPENM3_ISA
