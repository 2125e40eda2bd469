// Pages of index keys as bytes, with what is known of their errors; block_bounds.h tells what for.
#include "block_bounds.h"
#include "threads.h"

namespace openm3::OPENM3_ISA {
namespace {

// One page and head: the centre is the mean of its keys, and one scale serves all of them.
template <class Element>
void quantise_page(const QuantiseCall& call, int64_t page, int64_t head) {
    const int64_t size = call.head_size, count = call.page_size;
    Arena measure(nullptr);
    const auto build = [&](Arena& arena) {
        struct {
            float* keys;
            int8_t* bytes;
        } memory{arena.take<float>(size * count), arena.take<int8_t>(size)};
        return memory;
    };
    build(measure);
    Arena arena(thread_scratch(Use::task, measure.taken()));
    const auto memory = build(arena);

    const int64_t row = page * call.key_heads + head;
    uint8_t* const bytes = call.quantised.keys + row * padded_tokens(count) * size;
    float* const centre = call.quantised.centres + row * size;
    const auto* const from = static_cast<const Element*>(call.k) + page * call.page_stride + head * call.head_stride;

    float longest = 0, largest = 0, square = 0;
    const auto raise = [](float& peak, float value) { peak = value > peak ? value : peak; };
    for (int64_t c = 0; c < size; ++c) centre[c] = 0;
    for (int64_t i = 0; i < count; ++i) {
        float* const key = memory.keys + i * size;
        for (int64_t c = 0; c < size; c += kLanes) {
            const Floats values = load_floats(from + i * call.slot_stride + c);
            store(key + c, values);
            store(centre + c, load<Floats>(centre + c) + values * splat(1 / static_cast<float>(count)));
        }
        square = 0;
        for (int64_t c = 0; c < size; ++c) square += key[c] * key[c];
        raise(longest, length_of(square));
    }
    square = 0;
    for (int64_t c = 0; c < size; ++c) square += centre[c] * centre[c];
    raise(longest, length_of(square));
    for (int64_t i = 0; i < count * size; ++i) {
        memory.keys[i] -= centre[i % size];
        raise(largest, magnitude(memory.keys[i]));
    }

    PageBounds& bounds = call.quantised.bounds[row];
    bounds = {scale_of(largest, longest), 0, 0, longest};
    for (int64_t i = 0; i < count; ++i) {
        float kept, lost;
        quantise(memory.keys + i * size, size, bounds.scale, memory.bytes, kept, lost);
        for (int64_t token = i; token < (i + 1 < count ? i + 1 : padded_tokens(count)); ++token) {  // the last one fills up
            for (int64_t c = 0; c < size; ++c) {
                bytes[byte_offset(token, c, size)] = static_cast<uint8_t>(memory.bytes[c] + 128);
            }
        }
        raise(bounds.residual, length_of(kept));
        raise(bounds.error, length_of(lost));
    }
}

template <class Element>
void run(const QuantiseCall& call) {
    parallel_for(call.num_threads, call.num_pages * call.key_heads, [&](int64_t task) {
        quantise_page<Element>(call, call.pages[task / call.key_heads], task % call.key_heads);
    });
}

}  // namespace

void quantise_keys(const QuantiseCall& call) {
    switch (call.dtype) {
        case DType::float32: return run<float>(call);
        case DType::bfloat16: return run<BFloat16>(call);
        case DType::float16: return run<Float16>(call);
    }
}

}  // namespace openm3::OPENM3_ISA
