// Bounds of the exact scores from keys and queries of 8 bits. With a key k = centre + s_k b_k + e_k and a query
// q = s_q b_q + e_q, where b_k and b_q are bytes,
//
//     q·k = q·centre + s_q s_k (b_q·b_k) + e_q·(s_k b_k) + q·e_k,
//
// and by Cauchy-Schwarz the last two terms are at most |e_q| |s_k b_k| + |q| |e_k|. So much for real numbers; as computed:
// - The products of bytes are summed exactly: below 2^24, as head sizes are at most 1024.
// - The exact score and q·centre are sums of C terms: each is off by at most C 2^-24 (1 + 2^-13) |q| max(|k|, |centre|).
//   What else is rounded (a key less its centre, what a byte loses, the terms above) is off by a few 2^-24 of the same.
//   `kSlack` allows for sixteen C in all.
// - Lengths are measured too large by `kLonger`, which covers their own rounding, and by `kFloor`, which covers squares
//   that underflow and the subnormal factors that a product of bfloat16 takes as zero.
// - Where the length of a query or key, or the product of both, overflows, or anything is NaN, there is no bound. Where
//   there is one, |q| |k| is finite, so that no sum on the way to the exact score overflowed.
#pragma once

#include <cfloat>

#include "byte_peaks.h"
#include "select_blocks.h"

namespace openm3::OPENM3_ISA {

constexpr float kSlack = 0x1p-20f;  // times C
constexpr float kLonger = 1.001f;
constexpr float kFloor = 0x1p-50f;
constexpr float kInfinity = __builtin_inff();

// At least the Euclidean length whose computed square this is; infinite for NaN.
inline float length_of(float square) {
    const float length = __builtin_sqrtf(square) * kLonger + kFloor;
    return length < kInfinity ? length : kInfinity;
}

// The scale at which `largest`, an element of vectors up to `length`, becomes 127; 0, which makes all bytes zero, where
// it is too small or there is no bound anyway.
inline float scale_of(float largest, float length) {
    return largest > kFloor && length < kInfinity ? largest / 127 : 0;
}

inline float magnitude(float x) { return x < 0 ? -x : x; }

// bytes[i] = x[i] / scale, rounded. `square` and `error_square` take the squared lengths of scale * bytes and of what
// is lost.
inline void quantise(const float* x, int64_t size, float scale, int8_t* bytes, float& square, float& error_square) {
    const float inverse = scale > 0 ? 1 / scale : 0;
    square = error_square = 0;
    for (int64_t i = 0; i < size; ++i) {
        const float level = scale > 0 ? x[i] * inverse : 0;
        bytes[i] = static_cast<int8_t>(level + __builtin_copysignf(0.5f, level));
        const float kept = scale * bytes[i], lost = x[i] - kept;
        square += kept * kept;
        error_square += lost * lost;
    }
}

struct QuantisedBlock {
    const uint8_t* keys;  // as in byte_peaks.h, with 128 added
    const float* centre;
    const PageBounds* bounds;
};

class BlockBounds {
public:
    BlockBounds(Arena& arena, int64_t rows, int64_t head_size)
        : head_size_(head_size),
          padded_rows_(round_up(rows, kLanes)),
          byte_peaks_(arena, rows, head_size),
          rows_(arena.take<float>(head_size * padded_rows_)),
          scale_(arena.take<float>(padded_rows_)),
          error_(arena.take<float>(padded_rows_)),
          length_(arena.take<float>(padded_rows_)),
          offset_(arena.take<int32_t>(padded_rows_)),
          lower_(arena.take<float>(padded_rows_)),
          upper_(arena.take<float>(padded_rows_)),
          floats_(arena.take<float>(head_size)),
          bytes_(arena.take<int8_t>(head_size)) {}

    template <class Element>
    void set_row(int64_t row, const Element* q) {
        Floats largest = {}, squares = {};
        for (int64_t c = 0; c < head_size_; c += kLanes) {
            const Floats values = load_floats(q + c);
            store(floats_ + c, values);
            largest = max(values < 0 ? -values : values, largest);
            squares += values * values;
        }
        float peak = 0, square = 0, kept, lost;
        for (int i = 0; i < kLanes; ++i) {
            peak = largest[i] > peak ? largest[i] : peak;
            square += squares[i];
        }
        length_[row] = length_of(square);
        scale_[row] = scale_of(peak, length_[row]);
        quantise(floats_, head_size_, scale_[row], bytes_, kept, lost);
        error_[row] = length_of(lost);
        offset_[row] = 0;
        for (int64_t c = 0; c < head_size_; ++c) {
            offset_[row] += 128 * bytes_[c];
            rows_[c * padded_rows_ + row] = floats_[c];
        }
        byte_peaks_.set_row(row, bytes_);
    }

    // Bounds the scores of all rows with a block of `count` keys. `next` is fetched into the cache meanwhile.
    void bound(const QuantisedBlock& block, int64_t count, const QuantisedBlock& next) {
        __builtin_prefetch(next.bounds);
        for (int64_t c = 0; c < head_size_; c += 16) __builtin_prefetch(next.centre + c);
        byte_peaks_.score(block.keys, count, next.keys);
        const PageBounds page = *block.bounds;
        for (int64_t row = 0; row < padded_rows_; row += kLanes) {
            const Floats length = load<Floats>(length_ + row);
            const Floats slack = length * splat(page.length) * splat(kSlack * static_cast<float>(head_size_));
            const Floats radius = length * splat(page.error) + load<Floats>(error_ + row) * splat(page.residual) + slack;
            const Ints product = load<Ints>(byte_peaks_.peaks() + row) - load<Ints>(offset_ + row);
            const Floats score = centre_products(row, block.centre) +
                                 load<Floats>(scale_ + row) * splat(page.scale) * __builtin_convertvector(product, Floats);
            const Floats lower = score - radius, upper = score + radius;
            store(lower_ + row, lower > splat(-kInfinity) ? lower : splat(-kInfinity));
            store(upper_ + row, upper < splat(kInfinity) ? upper : splat(kInfinity));
        }
    }

    // A row's exact score of the last block lies between them; infinite where there is no bound.
    float lower(int64_t row) const { return lower_[row]; }
    float upper(int64_t row) const { return upper_[row]; }

private:
    // Of a vector of rows.
    Floats centre_products(int64_t row, const float* centre) const {
        Floats sums[4] = {};
        for (int64_t c = 0; c < head_size_; c += 4) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                sums[i] = multiply_add(load<Floats>(rows_ + (c + i) * padded_rows_ + row), splat(centre[c + i]), sums[i]);
            }
        }
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }

    int64_t head_size_, padded_rows_;
    BytePeaks byte_peaks_;
    float* rows_;      // [C][padded rows]
    float* scale_;     // of each row's bytes
    float* error_;     // length of what they lose
    float* length_;    // of the row
    int32_t* offset_;  // what the 128 of the keys' bytes add to a product
    float *lower_, *upper_;
    float* floats_;  // [C], a row
    int8_t* bytes_;  // [C], a row
};

}  // namespace openm3::OPENM3_ISA
