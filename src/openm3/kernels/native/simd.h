// Vectors of the instruction set that this file is compiled for. Everything lies in that set's own namespace, so that
// the linker never takes code compiled for one machine into a kernel that runs on another.
//
// GCC's and Clang's vector types give + - * / < ?: and shifts on every machine; only what they lack is spelled out.
// The compiler may not fuse a * b + c on its own (-ffp-contract=off): `multiply_add` says where it happens, so that an
// expression gives the same bits wherever it is inlined.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace openm3::OPENM3_ISA {

#if defined(__AVX512BF16__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Independent sums that a product keeps in registers: enough to hide the latency of a multiply-add, and few enough
// to leave room for the factors.
constexpr int kSums = kLanes == 16 ? 16 : 8;

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));  // two bfloat16 in each lane, the first in the low half
typedef uint16_t Shorts __attribute__((vector_size(2 * kLanes)));

struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

template <class Vector>
INLINE Vector load(const void* from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class Vector>
INLINE void store(void* to, Vector value) {
    std::memcpy(to, &value, sizeof value);
}

INLINE Floats splat(float value) { return value - Floats{}; }
INLINE Ints splat(int32_t value) { return value - Ints{}; }
INLINE Words splat(uint32_t value) { return value - Words{}; }

// The result is b where either is NaN.
INLINE Floats max(Floats a, Floats b) { return a > b ? a : b; }
INLINE Ints max(Ints a, Ints b) { return a > b ? a : b; }

template <class To, class From>
INLINE To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof value);
    return result;
}

INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512BF16__)
    return bits_as<Floats>(_mm512_fmadd_ps(bits_as<__m512>(a), bits_as<__m512>(b), bits_as<__m512>(c)));
#elif defined(__AVX2__)
    return bits_as<Floats>(_mm256_fmadd_ps(bits_as<__m256>(a), bits_as<__m256>(b), bits_as<__m256>(c)));
#else
    return a * b + c;
#endif
}

INLINE Floats low_floats(Words pairs) { return bits_as<Floats>(pairs << 16); }
INLINE Floats high_floats(Words pairs) { return bits_as<Floats>(pairs & 0xffff0000u); }

// sum + a.low * b.low + a.high * b.high in each lane. The AVX-512 instruction takes subnormal numbers (below 1.2e-38)
// as zero and rounds after each of the two additions, to nearest even, whatever the thread's rounding mode.
INLINE Floats dot(Floats sum, Words a, Words b) {
#if defined(__AVX512BF16__)
    return bits_as<Floats>(_mm512_dpbf16_ps(bits_as<__m512>(sum), bits_as<__m512bh>(a), bits_as<__m512bh>(b)));
#else
    return multiply_add(low_floats(a), low_floats(b), multiply_add(high_floats(a), high_floats(b), sum));
#endif
}

INLINE Floats dot(Floats sum, Floats a, Floats b) { return multiply_add(a, b, sum); }

// Rounds to nearest even; NaN stays NaN.
INLINE Words round_to_bf16(Floats value) {
    const Words bits = bits_as<Words>(value);
    const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return value == value ? rounded : (bits >> 16) | 0x40;
}

// (GCC 12 compiles __builtin_convertvector to many more steps.)
INLINE Words load_shorts(const void* from) {
#if defined(__AVX512BF16__)
    return bits_as<Words>(_mm512_cvtepu16_epi32(load<__m256i>(from)));
#elif defined(__AVX2__)
    return bits_as<Words>(_mm256_cvtepu16_epi32(load<__m128i>(from)));
#else
    return __builtin_convertvector(load<Shorts>(from), Words);
#endif
}

INLINE Floats load_floats(const float* from) { return load<Floats>(from); }

INLINE Floats load_floats(const BFloat16* from) {
    return bits_as<Floats>(load_shorts(from) << 16);
}

INLINE Floats load_floats(const Float16* from) {
#if defined(__AVX512BF16__)
    return bits_as<Floats>(_mm512_cvtph_ps(load<__m256i>(from)));
#elif defined(__AVX2__)
    return bits_as<Floats>(_mm256_cvtph_ps(load<__m128i>(from)));
#else
    Floats value;
    for (int i = 0; i < kLanes; ++i) value[i] = bits_as<_Float16>(from[i]);
    return value;
#endif
}

INLINE void store_floats(float* to, Floats value) { store(to, value); }

INLINE void store_floats(BFloat16* to, Floats value) {
#if defined(__AVX512BF16__)
    store(to, _mm512_cvtneps_pbh(bits_as<__m512>(value)));
#else
    store(to, __builtin_convertvector(round_to_bf16(value), Shorts));
#endif
}

INLINE void store_floats(Float16* to, Floats value) {
#if defined(__AVX512BF16__)
    store(to, _mm512_cvtps_ph(bits_as<__m512>(value), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
    store(to, _mm256_cvtps_ph(bits_as<__m256>(value), _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < kLanes; ++i) to[i] = bits_as<Float16>(static_cast<_Float16>(value[i]));
#endif
}

// The same of the first `count` lanes; others are zero, or stay in memory as they are.
template <class Element>
INLINE Floats load_floats(const Element* from, int64_t count) {
    if (count >= kLanes) return load_floats(from);
    Element all[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) all[i] = from[i];
    return load_floats(all);
}

template <class Element>
INLINE void store_floats(Element* to, Floats value, int64_t count) {
    if (count >= kLanes) return store_floats(to, value);
    Element all[kLanes];
    store_floats(all, value);
    for (int64_t i = 0; i < count; ++i) to[i] = all[i];
}

// 2^x for x <= 0 with a relative error below 2e-7; 0 below 2^-126. NaN stays NaN.
INLINE Floats exp2(Floats x) {
    x = max(splat(-127.0f), x);
    const Floats shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
    const Floats shifted = x + shift;
    const Floats part = x - (shifted - shift);  // from -0.5 to 0.5
    // The polynomial of degree 5 through (0, 1) with the smallest relative error there.
    Floats sum = splat(0.001326472731307149f);
    for (float factor : {0.009671512991189957f, 0.05550733581185341f, 0.24022242426872253f, 0.6931470036506653f, 1.0f}) {
        sum = multiply_add(sum, part, splat(factor));
    }
    const Ints exponent = (bits_as<Ints>(shifted) + 127) << 23;  // the carry of `shift` is shifted out
    return sum * bits_as<Floats>(exponent);
}

}  // namespace openm3::OPENM3_ISA
