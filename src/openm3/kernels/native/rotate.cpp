#include "rotate.h"

#include "simd.h"
#include "threads.h"

namespace openm3::OPENM3_ISA {
namespace {

template <class Element>
void rotate_head(const Element* x, const float* cos, const float* sin, Element* out, int64_t half) {
    for (int64_t i = 0; i < half; i += kLanes) {
        const int64_t left = half - i;
        const Floats first = load_floats(x + i, left), second = load_floats(x + half + i, left);
        const Floats c = load_floats(cos + i, left), s = load_floats(sin + i, left);
        store_floats(out + i, first * c - second * s, left);
        store_floats(out + half + i, second * c + first * s, left);
    }
}

template <class Element>
void rotate_token(const RotateCall& call, int64_t token, int64_t slot) {
    const int64_t size = call.head_size, half = size / 2;
    const Element* x = static_cast<const Element*>(call.heads) + token * call.token_stride;
    const float *cos = call.cos + token * half, *sin = call.sin + token * half;
    Element* q = static_cast<Element*>(call.q) + token * call.num_heads * size;
    for (int64_t h = 0; h < call.num_heads; ++h, x += size) rotate_head(x, cos, sin, q + h * size, half);
    Element *k = static_cast<Element*>(call.k) + slot, *v = static_cast<Element*>(call.v) + slot;
    for (int64_t r = 0; r < call.kv_heads; ++r, x += size) rotate_head(x, cos, sin, k + r * call.head_stride, half);
    for (int64_t r = 0; r < call.kv_heads; ++r, x += size) {
        std::memcpy(v + r * call.head_stride, x, static_cast<size_t>(size) * sizeof(Element));
    }
}

template <class Element>
void run(const RotateCall& call) {
    for (int64_t b = 0; b < call.sequences; ++b) {
        const int64_t first = call.query_start[b], tokens = call.query_start[b + 1] - first;
        parallel_for(tokens > 1 ? call.num_threads : 1, tokens, [&](int64_t i) {
            const int64_t position = call.context_len[b] - tokens + i;
            const int64_t page = call.page_table[b * call.table_width + position / call.page_size];
            rotate_token<Element>(call, first + i,
                                  page * call.page_stride + position % call.page_size * call.slot_stride);
        });
    }
}

}  // namespace

void rotate(const RotateCall& call) {
    switch (call.dtype) {
        case DType::float32: return run<float>(call);
        case DType::bfloat16: return run<BFloat16>(call);
        case DType::float16: return run<Float16>(call);
    }
}

}  // namespace openm3::OPENM3_ISA
