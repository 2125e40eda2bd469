#include "rotate.h"

#include "simd.h"
#include "threads.h"

namespace openm3::OPENM3_ISA {
namespace {

// What a kind of heads goes through.
struct Way {
    const float* scale;  // [D], of the norm; null where there is none
    bool turns;
};

template <class Element>
void rotate_head(const RotateCall& call, const Way& way, const Element* x, int64_t token, Element* out) {
    const int64_t size = call.head_size, pairs = way.turns ? call.pairs : 0;
    const float *cos = call.cos + token * call.pairs, *sin = call.sin + token * call.pairs;
    Floats shrink = splat(1.0f);
    if (way.scale) {
        Floats squares = {};
        for (int64_t i = 0; i < size; i += kLanes) {
            const Floats value = load_floats(x + i, size - i);
            squares = multiply_add(value, value, squares);
        }
        float sum = 0;
        for (int lane = 0; lane < kLanes; ++lane) sum += squares[lane];
        shrink = splat(1 / __builtin_sqrtf(sum / static_cast<float>(size) + call.eps));
    }
    const auto normed = [&](int64_t i, int64_t left) {
        const Floats value = load_floats(x + i, left);
        return way.scale ? value * shrink * load_floats(way.scale + i, left) : value;
    };
    for (int64_t i = 0; i < pairs; i += kLanes) {
        const int64_t left = pairs - i;
        const Floats first = normed(i, left), second = normed(pairs + i, left);
        const Floats c = load_floats(cos + i, left), s = load_floats(sin + i, left);
        store_floats(out + i, first * c - second * s, left);
        store_floats(out + pairs + i, second * c + first * s, left);
    }
    for (int64_t i = 2 * pairs; i < size; i += kLanes) store_floats(out + i, normed(i, size - i), size - i);
}

template <class Element>
void rotate_token(const RotateCall& call, int64_t token, int64_t slot) {
    const int64_t size = call.head_size;
    const Element* x = static_cast<const Element*>(call.heads) + token * call.token_stride;
    Element* q = static_cast<Element*>(call.q) + token * call.num_heads * size;
    const Way of_queries{call.q_scale, call.turns_queries}, of_keys{call.k_scale, true};
    for (int64_t h = 0; h < call.num_heads; ++h, x += size) rotate_head(call, of_queries, x, token, q + h * size);
    Element* k = static_cast<Element*>(call.k) + slot;
    for (int64_t r = 0; r < call.kv_heads; ++r, x += size) rotate_head(call, of_keys, x, token, k + r * call.head_stride);
    if (!call.v) return;
    Element* v = static_cast<Element*>(call.v) + slot;
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
