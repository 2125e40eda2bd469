#include "chain.h"

#include <algorithm>

#include "rms_norm.h"
#include "threads.h"

namespace openm3 {

void Chain::run(const uint16_t* x, int64_t x_stride, float* stream, void* out, int64_t rows, int num_threads) const {
    // Two buffers: what a link reads, and what it gives.
    int64_t widest = 0;
    for (const Link& link : links_) widest = std::max({widest, link.inputs, link.outputs});
    const int64_t size = rows * (widest + 31) / 32 * 32;
    auto* buffers = reinterpret_cast<uint16_t*>(thread_scratch(Use::chain, 2 * size * sizeof(uint16_t)));
    uint16_t *read = buffers, *given = buffers + size;
    for (const Link& link : links_) {
        if (link.norm) {
            OPENM3_KERNEL(rms_norm)({DType::bfloat16, stream, link.norm, read, rows, link.inputs, link.eps, num_threads});
            x = read;
            x_stride = link.inputs;
        }
        const bool adds = link.output == Output::added, last = &link == &links_.back();
        void* target = adds ? stream : last ? out : given;
        OPENM3_KERNEL(linear)({link.weights, link.weight, x, target, x_stride, link.outputs, rows, link.inputs,
                               link.outputs, link.output, num_threads});
        if (!adds) {
            x = given;
            x_stride = link.outputs;
            std::swap(read, given);
        }
    }
}

}  // namespace openm3
