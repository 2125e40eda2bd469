#include "rms_norm.h"

#include "simd.h"
#include "threads.h"

namespace openm3::OPENM3_ISA {
namespace {

template <class Element>
void run(const RmsNormCall& call) {
    parallel_for(call.rows > 1 ? call.num_threads : 1, call.rows, [&](int64_t row) {
        const float* x = call.x + row * call.size;
        Element* out = static_cast<Element*>(call.out) + row * call.size;
        Floats squares = {};
        for (int64_t i = 0; i < call.size; i += kLanes) {
            const Floats value = load_floats(x + i, call.size - i);
            squares = multiply_add(value, value, squares);
        }
        float sum = 0;
        for (int lane = 0; lane < kLanes; ++lane) sum += squares[lane];
        const Floats scale = splat(1 / __builtin_sqrtf(sum / static_cast<float>(call.size) + call.eps));
        for (int64_t i = 0; i < call.size; i += kLanes) {
            const int64_t left = call.size - i;
            store_floats(out + i, load_floats(x + i, left) * scale * load_floats(call.weight + i, left), left);
        }
    });
}

}  // namespace

void rms_norm(const RmsNormCall& call) {
    switch (call.dtype) {
        case DType::float32: return run<float>(call);
        case DType::bfloat16: return run<BFloat16>(call);
        case DType::float16: return run<Float16>(call);
    }
}

}  // namespace openm3::OPENM3_ISA
