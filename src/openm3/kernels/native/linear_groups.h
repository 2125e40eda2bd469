// Weights of 8 or 4 bits, widened to the bfloat16 numbers that they stand for. The product of a scale and a code is exact
// in fp32, so a weight is rounded as one that was dequantised when it was loaded: products have the same bits.
#pragma once

#include "linear.h"
#include "simd_widen.h"

namespace openm3::OPENM3_ISA {

// Pairs of inputs in a group.
constexpr int kGroupPairs = kGroup / 2;

// What a group of inputs takes of a panel.
constexpr int64_t group_bytes(Weights weights) {
    return weights == Weights::int8 ? kPanel * (2 + kGroup) : kPanel * (2 + 2 + kGroup / 2);
}

// One group of inputs of kLanes outputs: those of its panel from `output` on.
template <Weights kWeights>
class Group {
  public:
    INLINE void open(const uint8_t* group, int64_t output) {
        const auto* numbers = reinterpret_cast<const Float16*>(group);
        in_pairs(load_floats(numbers + output), scale_);
        if constexpr (kFour) in_pairs(load_floats(numbers + kPanel + output), offset_);
        codes_ = group + (kFour ? 4 : 2) * kPanel + (kFour ? output / 16 * 16 + 2 * output % 16 : 2 * output);
        shift_ = output % 16 / 8 * 4;
    }

    // The weights of a pair of inputs.
    INLINE Words pair(int64_t i) const {
        if constexpr (kFour) {
            const uint8_t* codes = codes_ + i * kPanel;
            if constexpr (kLanes == 16) {
                const Words both = load_bytes(codes);
                return to_pairs_of_bf16(weights(both, 0), weights(both >> 4, 1));
            }
            const Words first = load_bytes(codes), second = load_bytes(codes + kLanes);
            return to_pairs_of_bf16(weights(first >> shift_, 0), weights(second >> shift_, 1));
        }
        const uint8_t* codes = codes_ + i * kPanel * 2;
        const Floats first = to_floats(load_signed_bytes(codes)), second = to_floats(load_signed_bytes(codes + kLanes));
        return to_pairs_of_bf16(first * scale_[0], second * scale_[1]);
    }

    // Brings a later group of the panel, or the next panel, into the cache: all of it, when called for every pair.
    INLINE void fetch(int64_t i) const {
        constexpr int64_t kBytes = group_bytes(kWeights), kStep = kBytes / kGroupPairs;
        for (int64_t line = 0; line < kStep; line += 64) __builtin_prefetch(codes_ + 4 * kBytes + i * kStep + line);
    }

  private:
    static constexpr bool kFour = kWeights == Weights::int4;

    INLINE Floats weights(Words codes, int half) const {
        return multiply_add(floats_of_nibbles(codes), scale_[half], offset_[half]);
    }

    Floats scale_[2], offset_[2];  // of the first half of the lanes and of the second, every lane twice
    const uint8_t* codes_;
    uint32_t shift_;
};

}  // namespace openm3::OPENM3_ISA
