// Vectors whose lanes are taken four at a time, and products of bytes: more of simd.h, for scans.
#pragma once

#include "simd.h"

namespace openm3::OPENM3_ISA {

constexpr int kFours = kLanes / 4;

// The four words at `from`, once in each four of lanes.
template <class Vector>
INLINE Vector splat_four(const void* from) {
#if defined(__AVX512BF16__)
    return bits_as<Vector>(_mm512_broadcast_i32x4(load<__m128i>(from)));
#elif defined(__AVX2__)
    return bits_as<Vector>(_mm256_broadcastsi128_si256(load<__m128i>(from)));
#else
    return load<Vector>(from);
#endif
}

// In each four: a0, a2, b0, b2.
template <class Vector>
INLINE Vector even_lanes(Vector a, Vector b) {
#if defined(__AVX512BF16__)
    return bits_as<Vector>(_mm512_shuffle_ps(bits_as<__m512>(a), bits_as<__m512>(b), 0x88));
#elif defined(__AVX2__)
    return bits_as<Vector>(_mm256_shuffle_ps(bits_as<__m256>(a), bits_as<__m256>(b), 0x88));
#else
    return Vector{a[0], a[2], b[0], b[2]};
#endif
}

// In each four: a1, a3, b1, b3.
template <class Vector>
INLINE Vector odd_lanes(Vector a, Vector b) {
#if defined(__AVX512BF16__)
    return bits_as<Vector>(_mm512_shuffle_ps(bits_as<__m512>(a), bits_as<__m512>(b), 0xdd));
#elif defined(__AVX2__)
    return bits_as<Vector>(_mm256_shuffle_ps(bits_as<__m256>(a), bits_as<__m256>(b), 0xdd));
#else
    return Vector{a[1], a[3], b[1], b[3]};
#endif
}

// In each four: a0 + a1, a2 + a3, b0 + b1, b2 + b3.
INLINE Floats add_pairs(Floats a, Floats b) { return even_lanes(a, b) + odd_lanes(a, b); }

// In each four: the larger of a0 and a1, of a2 and a3, of b0 and b1, of b2 and b3.
INLINE Ints max_pairs(Ints a, Ints b) { return max(even_lanes(a, b), odd_lanes(a, b)); }

// The largest of each lane of all fours goes to to[0] ... to[3].
INLINE void store_largest_of_fours(int32_t* to, Ints x) {
#if defined(__AVX512BF16__)
    const __m512i all = bits_as<__m512i>(x);
    const __m256i half = _mm256_max_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    store(to, _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
#elif defined(__AVX2__)
    const __m256i all = bits_as<__m256i>(x);
    store(to, _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
#else
    store(to, x);
#endif
}

// Bit i is set where lane i of a is at least that of b; not where either is NaN.
INLINE uint32_t at_least(Floats a, Floats b) {
#if defined(__AVX512BF16__)
    return _mm512_cmp_ps_mask(bits_as<__m512>(a), bits_as<__m512>(b), _CMP_GE_OQ);
#elif defined(__AVX2__)
    const __m256 is = _mm256_cmp_ps(bits_as<__m256>(a), bits_as<__m256>(b), _CMP_GE_OQ);
    return static_cast<uint32_t>(_mm256_movemask_ps(is));
#else
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(a[i] >= b[i]) << i;
    return bits;
#endif
}

// 0, 1, 2, 3 in each four.
INLINE Ints lane_of_four() {
    Ints lanes;
    for (int i = 0; i < kLanes; ++i) lanes[i] = i % 4;
    return lanes;
}

// In each four: the lanes 1, 0, 3, 2.
INLINE Floats swap_pairs(Floats x) {
#if defined(__AVX512BF16__)
    return bits_as<Floats>(_mm512_permute_ps(bits_as<__m512>(x), 0xb1));
#elif defined(__AVX2__)
    return bits_as<Floats>(_mm256_permute_ps(bits_as<__m256>(x), 0xb1));
#else
    return Floats{x[1], x[0], x[3], x[2]};
#endif
}

// In each four: the lanes 2, 3, 0, 1.
INLINE Floats swap_halves(Floats x) {
#if defined(__AVX512BF16__)
    return bits_as<Floats>(_mm512_permute_ps(bits_as<__m512>(x), 0x4e));
#elif defined(__AVX2__)
    return bits_as<Floats>(_mm256_permute_ps(bits_as<__m256>(x), 0x4e));
#else
    return Floats{x[2], x[3], x[0], x[1]};
#endif
}

// Of each four, in all its lanes.
INLINE Floats max_of_fours(Floats x) {
    x = max(x, swap_pairs(x));
    return max(x, swap_halves(x));
}

INLINE Floats sum_of_fours(Floats x) {
    x = x + swap_pairs(x);
    return x + swap_halves(x);
}

// sum + the four products of the signed bytes of `a` with the unsigned ones of `b`, in each lane.
INLINE Ints dot(Ints sum, Words a, Words b) {
#if defined(__AVX512VNNI__)
    return bits_as<Ints>(_mm512_dpbusd_epi32(bits_as<__m512i>(sum), bits_as<__m512i>(b), bits_as<__m512i>(a)));
#elif defined(__AVX2__)
    const __m256i odd = _mm256_srai_epi16(bits_as<__m256i>(a), 8);
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bits_as<__m256i>(a), 8), 8);
    return sum + bits_as<Ints>(_mm256_madd_epi16(even, bits_as<__m256i>(b & 0x00ff00ffu))) +
           bits_as<Ints>(_mm256_madd_epi16(odd, bits_as<__m256i>((b >> 8) & 0x00ff00ffu)));
#else
    for (int shift = 0; shift < 32; shift += 8) {
        sum += (bits_as<Ints>(a << (24 - shift)) >> 24) * bits_as<Ints>((b >> shift) & 0xffu);
    }
    return sum;
#endif
}

}  // namespace openm3::OPENM3_ISA
