// Weights lie in lanes, so that an output adds its products in the order of the inputs, and a row gives the same bits
// whatever the number of rows. One row streams the weights; many reuse a panel from the cache.
#include "linear.h"

#include <type_traits>

#include "linear_groups.h"
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

// Where the weights of W vectors of outputs are: a panel, and the first of its outputs. `first` counts vectors. Where
// gated, half of them are the gate's, and the others those that it multiplies.
template <Output kOutput, int W>
struct Places {
    static constexpr int kOutputs = kOutput == Output::gated ? W / 2 : W;
    int64_t panel[W], output[W];

    explicit Places(int64_t first) {
        for (int w = 0; w < W; ++w) {
            const int64_t vector = first + w % kOutputs, at = vector / kPanelVectors;
            panel[w] = kOutput == Output::gated ? at * 2 + w / kOutputs : at;
            output[w] = vector % kPanelVectors * kLanes;
        }
    }
};

// N rows times the weights of W vectors, which `add(sums, x)` multiplies.
template <Output kOutput, int W, int N, class Add>
INLINE void block(const LinearCall& call, int64_t first, int64_t row, const Add& add) {
    constexpr int kOutputs = Places<kOutput, W>::kOutputs;
    const uint32_t* x[N];
    for (int n = 0; n < N; ++n) x[n] = reinterpret_cast<const uint32_t*>(call.x + (row + n) * call.x_stride);
    Floats sums[N][W] = {};
    add(sums, x);
    for (int n = 0; n < N; ++n) {
        for (int w = 0; w < kOutputs; ++w) {
            const int64_t column = (first + w) * kLanes;
            const Floats value = kOutput == Output::gated ? silu(sums[n][w]) * sums[n][w + W - kOutputs] : sums[n][w];
            if (column < call.outputs) store_lanes<kOutput>(call, row + n, column, value);
        }
    }
}

// All rows times weights in bfloat16: W addresses, where a pair of inputs is `step` words behind the one before.
template <Output kOutput, int W>
void many_rows(const LinearCall& call, int64_t first, const uint32_t* const (&weight)[W], int64_t step) {
    const auto lanes_of = [&](int64_t i, Words (&lanes)[W]) {
        for (int w = 0; w < W; ++w) lanes[w] = load<Words>(weight[w] + i * step);
    };
    const auto add = [&](auto& sums, const auto& x) {
        add_product<Words>(sums, call.inputs / 2, lanes_of, [&](int64_t i, int n) { return x[n] + i; },
                           weight[0] + 32 * step, step * sizeof(uint32_t));
    };
    constexpr int kRows = kSums / W;
    int64_t row = 0;
    for (; row + kRows <= call.rows; row += kRows) block<kOutput, W, kRows>(call, first, row, add);
    for (; row < call.rows; ++row) block<kOutput, W, 1>(call, first, row, add);
}

// One row times weights that are widened on the way, many times weights that were widened before.
template <Weights kWeights, Output kOutput, int W>
void grouped(const LinearCall& call, int64_t first) {
    const Places<kOutput, W> places(first);
    const int64_t num_groups = call.inputs / kGroup, bytes = group_bytes(kWeights);
    Group<kWeights> groups[W];
    const auto open = [&](int64_t g) {
        for (int w = 0; w < W; ++w) {
            groups[w].open(call.weight + (places.panel[w] * num_groups + g) * bytes, places.output[w]);
        }
    };
    const auto lanes_of = [&](int64_t i, Words (&lanes)[W]) {
        for (int w = 0; w < W; w += kPanelVectors) groups[w].fetch(i);
        for (int w = 0; w < W; ++w) lanes[w] = groups[w].pair(i);
    };
    if (call.rows == 1) {
        return block<kOutput, W, 1>(call, first, 0, [&](auto& sums, const auto& x) {
            for (int64_t g = 0; g < num_groups; ++g) {
                open(g);
                add_product<Words>(sums, kGroupPairs, lanes_of,
                                   [&](int64_t i, int) { return x[0] + g * kGroupPairs + i; }, nullptr, 0);
            }
        });
    }
    auto* wide = reinterpret_cast<uint32_t*>(thread_scratch(Use::task, call.inputs / 2 * W * sizeof(Words)));
    for (int64_t g = 0; g < num_groups; ++g) {
        open(g);
        for (int64_t i = 0; i < kGroupPairs; ++i) {
            Words lanes[W];
            lanes_of(i, lanes);
            for (int w = 0; w < W; ++w) store(wide + ((g * kGroupPairs + i) * W + w) * kLanes, lanes[w]);
        }
    }
    const uint32_t* weight[W];
    for (int w = 0; w < W; ++w) weight[w] = wide + w * kLanes;
    many_rows<kOutput, W>(call, first, weight, W * kLanes);
}

// All rows times the weights of W vectors.
template <Output kOutput, int W>
void columns(const LinearCall& call, int64_t first) {
    if (call.weights == Weights::int8) return grouped<Weights::int8, kOutput, W>(call, first);
    if (call.weights == Weights::int4) return grouped<Weights::int4, kOutput, W>(call, first);
    const Places<kOutput, W> places(first);
    const auto* words = reinterpret_cast<const uint32_t*>(call.weight);
    const uint32_t* weight[W];
    for (int w = 0; w < W; ++w) weight[w] = words + places.panel[w] * (call.inputs / 2) * kPanel + places.output[w];
    many_rows<kOutput, W>(call, first, weight, kPanel);
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
