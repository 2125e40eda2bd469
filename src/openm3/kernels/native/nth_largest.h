// The n-th largest of some values, at a cost that does not depend on their order.
#pragma once

#include <cfloat>

#include "simd_fours.h"

namespace openm3::OPENM3_ISA {

// How many of `count` values, a multiple of kLanes, are `bound` or more.
inline int64_t count_at_least(const float* values, int64_t count, float bound) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i += kLanes) {
        found += __builtin_popcount(at_least(load<Floats>(values + i), splat(bound)));
    }
    return found;
}

// The `rank`-th largest of `count` values, a multiple of kLanes, none of them NaN. Its bits are found one by one, from
// the highest: taken as integers, with all but the sign inverted where that is set, floats have the order of their values.
inline float nth_largest(const float* values, int64_t count, int64_t rank) {
    const auto as_float = [](int64_t order) {
        const auto bits = static_cast<int32_t>(order);
        return bits_as<float>(bits < 0 ? bits ^ INT32_MAX : bits);
    };
    if (count_at_least(values, count, -FLT_MAX) < rank) return -__builtin_inff();
    int64_t order = INT32_MIN;
    for (int64_t bit = int64_t{1} << 31; bit > 0; bit >>= 1) {
        if (count_at_least(values, count, as_float(order + bit)) >= rank) order += bit;
    }
    return as_float(order);
}

// Writes the numbers of the `rank` largest of `count` values, ascending and counted from `first`; of equal ones the first.
// At least `rank` are above -infinity. Returns the end of what was written.
inline int32_t* write_largest(const float* values, int64_t count, int64_t rank, int64_t first, int32_t* to) {
    const float least = nth_largest(values, count, rank);
    int64_t room = rank;  // for values that are level with the last to get in
    for (int64_t i = 0; i < count; ++i) room -= values[i] > least;
    for (int64_t i = 0; i < count; ++i) {
        if (values[i] > least || (values[i] == least && room-- > 0)) *to++ = static_cast<int32_t>(first + i);
    }
    return to;
}

}  // namespace openm3::OPENM3_ISA
