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

#include "row_products.h"
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
        bytes[i] = static_cast<int8_t>(level + (level < 0 ? -0.5f : 0.5f));
        const float kept = scale * bytes[i], lost = x[i] - kept;
        square += kept * kept;
        error_square += lost * lost;
    }
}

struct QuantisedBlock {
    const uint8_t* keys;  // bytes with 128 added
    const float* centre;
    const PageBounds* bounds;
};

class BlockBounds {
public:
    BlockBounds(Arena& arena, int64_t rows, int64_t head_size)
        : head_size_(head_size),
          byte_products_(arena, rows, head_size / 4),
          centre_products_(arena, rows, head_size),
          rows_(arena.take<Row>(rows)),
          floats_(arena.take<float>(head_size)),
          bytes_(arena.take<int8_t>(head_size)) {}

    template <class Element>
    void set_row(int64_t row, const Element* q) {
        for (int64_t c = 0; c < head_size_; c += kLanes) store(floats_ + c, load_floats(q + c));
        float largest = 0, square = 0, kept, lost;
        for (int64_t c = 0; c < head_size_; ++c) {
            largest = magnitude(floats_[c]) > largest ? magnitude(floats_[c]) : largest;
            square += floats_[c] * floats_[c];
        }
        centre_products_.set_row(row, floats_);
        Row& to = rows_[row];
        to.length = length_of(square);
        to.scale = scale_of(largest, to.length);
        quantise(floats_, head_size_, to.scale, bytes_, kept, lost);
        to.error = length_of(lost);
        to.offset = 0;
        for (int64_t c = 0; c < head_size_; ++c) to.offset += 128 * bytes_[c];
        byte_products_.set_row(row, reinterpret_cast<const uint32_t*>(bytes_));
    }

    // Takes the products with a block's keys and centre. `next` is fetched into the cache meanwhile.
    void score(const QuantisedBlock& block, int64_t count, const QuantisedBlock& next) {
        __builtin_prefetch(next.bounds);
        for (int64_t c = 0; c < head_size_; c += 16) __builtin_prefetch(next.centre + c);
        byte_products_.start(INT32_MIN);
        for (int64_t i = 0; i < count; i += 4) {
            const uint32_t* four[4];
            for (int n = 0; n < 4; ++n) {
                four[n] = reinterpret_cast<const uint32_t*>(block.keys + min(i + n, count - 1) * head_size_);
            }
            byte_products_.add(four, next.keys + i * head_size_);
        }
        centre_products_.start(-FLT_MAX);
        centre_products_.add({block.centre, block.centre, block.centre, block.centre}, block.centre);
    }

    struct Range { float lower, upper; };

    // Holds a row's exact score of the last block; infinite where there is no bound.
    Range bound(int64_t row, const PageBounds& page) const {
        const Row& of = rows_[row];
        const float slack = of.length * page.length * (kSlack * static_cast<float>(head_size_));
        const float radius = of.length * page.error + of.error * page.residual + slack;
        const float product = static_cast<float>(byte_products_.peak(row) - of.offset);
        const float score = centre_products_.peak(row) + of.scale * page.scale * product;
        const float lower = score - radius, upper = score + radius;
        return {lower > -kInfinity ? lower : -kInfinity, upper < kInfinity ? upper : kInfinity};
    }

private:
    struct Row {
        float scale;
        float error;     // length of what is lost
        float length;
        int32_t offset;  // what the 128 of the keys' bytes add to a product
    };

    int64_t head_size_;
    RowPeaks<Ints, Words> byte_products_;
    RowPeaks<Floats, Floats> centre_products_;
    Row* rows_;
    float* floats_;  // [C], a row
    int8_t* bytes_;  // [C], a row
};

}  // namespace openm3::OPENM3_ISA
