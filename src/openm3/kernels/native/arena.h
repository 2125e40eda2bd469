// Memory of a call or task, cut into pieces, and the arithmetic of sizes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd.h"

namespace openm3::OPENM3_ISA {

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

}  // namespace openm3::OPENM3_ISA
