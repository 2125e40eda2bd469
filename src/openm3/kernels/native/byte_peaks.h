// Products of rows with a block of keys in bytes, of which the largest counts. Keys lie token beside token, four channels
// of each: so a lane of a vector has a key of its own, and nothing is summed across lanes.
#pragma once

#include "arena.h"
#include "simd_fours.h"

namespace openm3::OPENM3_ISA {

constexpr int64_t kSideBySide = 16;  // tokens, the same in all instruction sets
constexpr int64_t kWordBytes = 4;

inline int64_t padded_tokens(int64_t count) { return round_up(count, kSideBySide); }

// Where channel `c` of a token lies in a block of byte keys.
inline int64_t byte_offset(int64_t token, int64_t c, int64_t head_size) {
    return token / kSideBySide * kSideBySide * head_size +
           (c / kWordBytes * kSideBySide + token % kSideBySide) * kWordBytes + c % kWordBytes;
}

class BytePeaks {
public:
    BytePeaks(Arena& arena, int64_t rows, int64_t head_size)
        : head_size_(head_size),
          steps_(head_size / kWordBytes),
          fours_(divide_up(rows, 4)),
          rows_(arena.take<uint32_t>(fours_ * steps_ * 4)),
          peaks_(arena.take<int32_t>(round_up(rows, kLanes))) {}

    void set_row(int64_t row, const int8_t* bytes) {
        uint32_t* const to = rows_ + row / 4 * steps_ * 4 + row % 4;
        for (int64_t i = 0; i < steps_; ++i) std::memcpy(to + i * 4, bytes + i * kWordBytes, kWordBytes);
    }

    // Of the keys of `count` tokens, a multiple of kSideBySide. As many bytes at `next` are fetched into the cache
    // meanwhile.
    void score(const uint8_t* keys, int64_t count, const uint8_t* next) {
        for (int64_t four = 0; four < fours_; ++four) {
            Ints peaks[4];
            for (Ints& peak : peaks) peak = splat(INT32_MIN);
            int64_t token = 0;
            if (four > 0) {
                for (; token + kMany * kLanes <= count; token += kMany * kLanes) {
                    add<kMany, 1>(four, keys, token, nullptr, peaks);
                }
            }
            for (; token < count; token += kLanes) add<1, kMany>(four, keys, token, four == 0 ? next : nullptr, peaks);
            const Ints of_rows = max_pairs(max_pairs(peaks[0], peaks[1]), max_pairs(peaks[2], peaks[3]));
            store_largest_of_fours(peaks_ + four * 4, of_rows);
        }
    }

    // Of each row, filled up to whole vectors.
    const int32_t* peaks() const { return peaks_; }

private:
    static constexpr int kMany = kSums / 4;  // vectors of keys at once

    // Products of four rows with W vectors of keys, U words of each at a time. Several vectors share the loads of rows;
    // one alone is read in the order of memory, which is best where keys come from there.
    template <int W, int U>
    INLINE void add(int64_t four, const uint8_t* keys, int64_t token, const uint8_t* ahead, Ints (&peaks)[4]) const {
        const uint32_t* const rows = rows_ + four * steps_ * 4;
        Ints sums[4][U * W] = {};
        for (int64_t i = 0; i < steps_; i += U) {
#pragma GCC unroll 4
            for (int u = 0; u < U; ++u) {
                Words lanes[W];
#pragma GCC unroll 4
                for (int w = 0; w < W; ++w) {
                    const int64_t offset = byte_offset(token + w * kLanes, (i + u) * kWordBytes, head_size_);
                    lanes[w] = load<Words>(keys + offset);
                    if (ahead) __builtin_prefetch(ahead + offset, 0, 0);
                }
#pragma GCC unroll 4
                for (int n = 0; n < 4; ++n) {
                    const Words row = splat(rows[(i + u) * 4 + n]);
#pragma GCC unroll 4
                    for (int w = 0; w < W; ++w) sums[n][u * W + w] = dot(sums[n][u * W + w], row, lanes[w]);
                }
            }
        }
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) {
#pragma GCC unroll 4
            for (int w = 0; w < W; ++w) {
                Ints sum = sums[n][w];
#pragma GCC unroll 4
                for (int u = 1; u < U; ++u) sum += sums[n][u * W + w];
                peaks[n] = max(peaks[n], sum);
            }
        }
    }

    int64_t head_size_, steps_, fours_;
    uint32_t* rows_;  // [rows / 4][steps][4]: a word of four rows side by side
    int32_t* peaks_;
};

}  // namespace openm3::OPENM3_ISA
