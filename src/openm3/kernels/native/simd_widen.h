// Small integers of memory as floats, and floats as bfloat16 in pairs: more of simd.h, for weights of few bits.
#pragma once

#include "simd.h"

namespace openm3::OPENM3_ISA {

// kLanes unsigned bytes, one in each lane.
INLINE Words load_bytes(const uint8_t* from) {
#if defined(__AVX512BF16__)
    return bits_as<Words>(_mm512_cvtepu8_epi32(load<__m128i>(from)));
#elif defined(__AVX2__)
    return bits_as<Words>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
    return Words{from[0], from[1], from[2], from[3]};
#endif
}

INLINE Floats to_floats(Ints value) {
#if defined(__AVX512BF16__)
    return bits_as<Floats>(_mm512_cvtepi32_ps(bits_as<__m512i>(value)));
#elif defined(__AVX2__)
    return bits_as<Floats>(_mm256_cvtepi32_ps(bits_as<__m256i>(value)));
#else
    return __builtin_convertvector(value, Floats);
#endif
}

// The same of signed bytes.
INLINE Ints load_signed_bytes(const uint8_t* from) {
#if defined(__AVX512BF16__)
    return bits_as<Ints>(_mm512_cvtepi8_epi32(load<__m128i>(from)));
#elif defined(__AVX2__)
    return bits_as<Ints>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
    return bits_as<Ints>(load_bytes(from) << 24) >> 24;
#endif
}

// The numbers in the lowest four bits of the lanes.
INLINE Floats floats_of_nibbles(Words lanes) {
#if defined(__AVX512BF16__)  // one look-up, which sees no other bits
    const Floats numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return bits_as<Floats>(_mm512_permutexvar_ps(bits_as<__m512i>(lanes), bits_as<__m512>(numbers)));
#else
    return to_floats(bits_as<Ints>(lanes & 15u));
#endif
}

// Every lane twice: 0, 0, 1, 1, ..., over two vectors.
INLINE void in_pairs(Floats lanes, Floats (&pairs)[2]) {
#if defined(__AVX512BF16__)
    const Ints low = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7};
    pairs[0] = bits_as<Floats>(_mm512_permutexvar_ps(bits_as<__m512i>(low), bits_as<__m512>(lanes)));
    pairs[1] = bits_as<Floats>(_mm512_permutexvar_ps(bits_as<__m512i>(low + 8), bits_as<__m512>(lanes)));
#elif defined(__AVX2__)
    const Ints low = {0, 0, 1, 1, 2, 2, 3, 3};
    pairs[0] = bits_as<Floats>(_mm256_permutevar8x32_ps(bits_as<__m256>(lanes), bits_as<__m256i>(low)));
    pairs[1] = bits_as<Floats>(_mm256_permutevar8x32_ps(bits_as<__m256>(lanes), bits_as<__m256i>(low + 4)));
#else
    pairs[0] = Floats{lanes[0], lanes[0], lanes[1], lanes[1]};
    pairs[1] = Floats{lanes[2], lanes[2], lanes[3], lanes[3]};
#endif
}

// All lanes in their order as bfloat16, two in a word. Rounds to nearest even.
INLINE Words to_pairs_of_bf16(Floats first, Floats second) {
#if defined(__AVX512BF16__)
    return bits_as<Words>(_mm512_cvtne2ps_pbh(bits_as<__m512>(second), bits_as<__m512>(first)));
#elif defined(__AVX2__)
    const __m256i a = bits_as<__m256i>(round_to_bf16(first)), b = bits_as<__m256i>(round_to_bf16(second));
    return bits_as<Words>(_mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8));
#else
    const Words a = round_to_bf16(first), b = round_to_bf16(second);
    return Words{a[0] | a[1] << 16, a[2] | a[3] << 16, b[0] | b[1] << 16, b[2] | b[3] << 16};
#endif
}

}  // namespace openm3::OPENM3_ISA
