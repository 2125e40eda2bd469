// Weights lie in lanes, so that an output adds its products in the order of the inputs, and a row gives the same bits
// whatever the number of rows. One row streams the weights; many reuse a panel from the cache.
#include "linear.h"

#include <type_traits>

#include "product.h"
#include "threads.h"

namespace openm3::OPENM3_ISA {
namespace {

constexpr int kPanelVectors = kPanel / kLanes;
// Two vectors of outputs share the broadcast of an input, four where the instruction set has registers for more.
constexpr int kWide = kLanes == 16 ? 4 : 2;

INLINE Floats silu(Floats x) {
    const Floats zero = {}, one = splat(1.0f);
    const Floats small = exp2(splat(-1.44269504088896341f) * max(x, -x));  // e^-|x|
    return x * (x < zero ? small : one) / (one + small);
}

template <Output kOutput>
INLINE void store_lanes(const LinearCall& call, int64_t row, int64_t column, Floats value) {
    using Element = std::conditional_t<kOutput == Output::bfloat16 || kOutput == Output::gated, BFloat16, float>;
    Element* out = static_cast<Element*>(call.out) + row * call.out_stride + column;
    const int64_t left = call.outputs - column;
    if constexpr (kOutput == Output::added) value += load_floats(out, left);
    store_floats(out, value, left);
}

// N rows times the weights of W vectors. `first` counts vectors of outputs.
template <Output kOutput, int W, int N>
void block(const LinearCall& call, int64_t first, int64_t row) {
    constexpr bool kGated = kOutput == Output::gated;
    constexpr int kOutputs = kGated ? W / 2 : W;  // vectors; where gated, those of the gate and then of the other half
    const int64_t depth = call.inputs / 2;
    const uint32_t* weight[W];
    for (int w = 0; w < W; ++w) {
        const int64_t vector = first + w % kOutputs;
        const int64_t panel = kGated ? vector / kPanelVectors * 2 + w / kOutputs : vector / kPanelVectors;
        weight[w] = call.weight + panel * depth * kPanel + vector % kPanelVectors * kLanes;
    }
    const uint32_t* x[N];
    for (int n = 0; n < N; ++n) x[n] = reinterpret_cast<const uint32_t*>(call.x + (row + n) * call.x_stride);
    Floats sums[N][W] = {};
    const auto weights = [&](int64_t i, Words (&lanes)[W]) {
        for (int w = 0; w < W; ++w) lanes[w] = load<Words>(weight[w] + i * kPanel);
    };
    add_product<Words>(sums, depth, weights, [&](int64_t i, int n) { return x[n] + i; }, weight[0] + 32 * kPanel,
                       kPanel * sizeof(uint32_t));
    for (int n = 0; n < N; ++n) {
        for (int w = 0; w < kOutputs; ++w) {
            const int64_t column = (first + w) * kLanes;
            const Floats value = kGated ? silu(sums[n][w]) * sums[n][w + W - kOutputs] : sums[n][w];
            if (column < call.outputs) store_lanes<kOutput>(call, row + n, column, value);
        }
    }
}

// All rows times the weights of W vectors.
template <Output kOutput, int W>
void columns(const LinearCall& call, int64_t first) {
    constexpr int kRows = kSums / W;
    int64_t row = 0;
    for (; row + kRows <= call.rows; row += kRows) block<kOutput, W, kRows>(call, first, row);
    for (; row < call.rows; ++row) block<kOutput, W, 1>(call, first, row);
}

template <Output kOutput>
void run(const LinearCall& call) {
    constexpr int kOutputs = kOutput == Output::gated ? kWide / 2 : kWide;
    const int64_t vectors = (call.outputs + kPanel - 1) / kPanel * kPanelVectors;
    parallel_for(call.num_threads, (vectors + kOutputs - 1) / kOutputs, [&](int64_t task) {
        if ((task + 1) * kOutputs <= vectors) {
            columns<kOutput, kWide>(call, task * kOutputs);
        } else {
            columns<kOutput, 2>(call, task * kOutputs);
        }
    });
}

}  // namespace

void linear(const LinearCall& call) {
    switch (call.output) {
        case Output::bfloat16: return run<Output::bfloat16>(call);
        case Output::float32: return run<Output::float32>(call);
        case Output::added: return run<Output::added>(call);
        case Output::gated: return run<Output::gated>(call);
    }
}

}  // namespace openm3::OPENM3_ISA
