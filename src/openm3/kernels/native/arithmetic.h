// How products with elements of a cache are computed: as floats, or as pairs of bfloat16 where the machine can. A word is
// what one lane holds of a query or key (an element or two), of the weights (of a key or of two), of the values (an
// element of one row or of two).
#pragma once

#include "simd.h"

namespace openm3::OPENM3_ISA {

template <class Element>
struct Arithmetic {
    using Word = float;
    using Vector = Floats;
    static constexpr int kPerWord = 1;
    static constexpr bool kInPlace = sizeof(Element) == sizeof(Word);

    // The words of a query or key, in place or `widened`.
    static const Word* words(const Element* from, int64_t head_size, Word* widened) {
        if constexpr (kInPlace) return from;
        for (int64_t d = 0; d < head_size; d += kLanes) store(widened + d, load_floats(from + d));
        return widened;
    }

    // The weights of four keys for a vector of rows, four lanes a row, become words: rows side by side, and the words of
    // later keys `stride` behind.
    static void store_weights(Word* to, int64_t stride, Floats weights) {
        for (int lane = 0; lane < kLanes; ++lane) to[lane % 4 * stride + lane / 4] = weights[lane];
    }

    // Words of W vectors of columns, from column d on, of kPerWord value rows.
    template <int W>
    INLINE static void load_columns(const Element* const* rows, int64_t d, Floats (&to)[W]) {
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) to[w] = load_floats(rows[0] + d + w * kLanes);
    }
};

#if defined(__AVX512BF16__)
template <>
struct Arithmetic<BFloat16> {
    using Word = uint32_t;
    using Vector = Words;
    static constexpr int kPerWord = 2;
    static constexpr bool kInPlace = true;

    static const Word* words(const BFloat16* from, int64_t, Word*) { return reinterpret_cast<const Word*>(from); }

    static void store_weights(Word* to, int64_t stride, Floats weights) {
        const __m256i words = bits_as<__m256i>(_mm512_cvtneps_pbh(bits_as<__m512>(weights)));
        const __m256i sorted = _mm256_permutevar8x32_epi32(words, _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0));
        store(to, _mm256_castsi256_si128(sorted));
        store(to + stride, _mm256_extracti128_si256(sorted, 1));
    }

    template <int W>
    INLINE static void load_columns(const BFloat16* const* rows, int64_t d, Words (&to)[W]) {
        if constexpr (W == 1) {
            to[0] = load_shorts(rows[0] + d) | (load_shorts(rows[1] + d) << 16);
        } else {
            const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                                 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
            const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
#pragma GCC unroll 8
            for (int w = 0; w < W; w += 2) {
                const __m512i first = load<__m512i>(rows[0] + d + w * kLanes);
                const __m512i second = load<__m512i>(rows[1] + d + w * kLanes);
                to[w] = bits_as<Words>(_mm512_permutex2var_epi16(first, low, second));
                to[w + 1] = bits_as<Words>(_mm512_permutex2var_epi16(first, high, second));
            }
        }
    }
};
#endif

}  // namespace openm3::OPENM3_ISA
