// How much of the softmax each block gets.
//
// First the blocks, a few a task: peak and sum of the exponentials of each head, as attention has them, and nothing of
// the values. Then each token's blocks are brought to a common peak and divided by their sum.
#include "block_mass.h"

#include <cfloat>

#include "row_products.h"
#include "threads.h"

namespace openm3::OPENM3_ISA {
namespace {

constexpr int64_t kBlocksOfTask = 16;
constexpr float kLog2E = 1.44269504088896341f;

// Of one watched token and group: head h of its block number i is at h * stride + i.
struct Sums {
    int64_t blocks, stride;
    float *peak, *total;

    static Sums take(Arena& arena, int64_t blocks, int64_t heads) {
        const int64_t stride = round_up(blocks, kLanes);
        return {blocks, stride, arena.take<float>(heads * stride), arena.take<float>(heads * stride)};
    }
};

struct Read {
    const BlockMassCall& call;
    int64_t token, kv_head;

    int64_t position() const { return call.positions[token]; }
    int64_t group() const { return call.heads / call.kv_heads; }

    const int32_t* ids() const {
        if (!call.block_ids) return nullptr;
        return call.block_ids + (call.rows[token] * call.kv_heads + kv_head) * call.blocks_per_query;
    }

    int64_t blocks() const {
        if (!call.block_ids) return position() / call.page_size + 1;
        int64_t count = 0;
        while (count < call.blocks_per_query && ids()[count] >= 0) ++count;
        return count;
    }

    int64_t block(int64_t i) const { return call.block_ids ? ids()[i] : i; }
};

template <class Element>
void sum_blocks(const Read& read, const Sums& sums, int64_t first, int64_t end) {
    using Word = typename Arithmetic<Element>::Word;
    using Products = RowProducts<Floats, typename Arithmetic<Element>::Vector>;
    const BlockMassCall& call = read.call;
    const int64_t group = read.group(), size = call.head_size;
    const auto build = [&](Arena& arena) {
        struct {
            Products products;
            Word* widened;  // [4][D], a query or four keys, where a word is no piece of one
            float* scores;  // [S / 4][vectors of heads][kLanes], four lanes a head
        } memory{{arena, group, size / Arithmetic<Element>::kPerWord},
                 arena.take<Word>(Arithmetic<Element>::kInPlace ? 0 : 4 * size),
                 arena.take<float>(divide_up(call.page_size, 4) * divide_up(group, kFours) * kLanes)};
        return memory;
    };
    Arena measure(nullptr);
    build(measure);
    Arena arena(thread_scratch(Use::task, measure.taken()));
    auto memory = build(arena);

    const auto* const q = static_cast<const Element*>(call.q) + call.rows[read.token] * call.q_token_stride +
                          read.kv_head * group * call.q_head_stride;
    for (int64_t h = 0; h < group; ++h) {
        memory.products.set_row(h, Arithmetic<Element>::words(q + h * call.q_head_stride, size, memory.widened));
    }
    const int64_t vectors = memory.products.vectors();
    const auto* const k = static_cast<const Element*>(call.k) + read.kv_head * call.head_stride;
    const int32_t* const table = call.page_table + call.sequences[read.token] * call.table_width;
    const auto keys_of = [&](int64_t i) { return k + table[read.block(i)] * call.page_stride; };
    for (int64_t i = first; i < end; ++i) {
        const Element* const keys = keys_of(i);
        const Element* const next = keys_of(min(i + 1, end - 1));
        const int64_t count = min(call.page_size, read.position() + 1 - read.block(i) * call.page_size);
        for (int64_t key = 0; key < count; key += 4) {
            const Word* four[4];
            for (int n = 0; n < 4; ++n) {
                four[n] = Arithmetic<Element>::words(keys + min(key + n, count - 1) * call.slot_stride, size,
                                                     memory.widened + n * size);
            }
            const Ints number = splat(static_cast<int32_t>(key)) + lane_of_four();
            memory.products.multiply(four, next + key * call.slot_stride, [&](int64_t vector, Floats products) {
                const Floats scores = products * splat(call.scale * kLog2E);
                store(memory.scores + (key / 4 * vectors + vector) * kLanes,
                      number >= splat(static_cast<int32_t>(count)) ? splat(-__builtin_inff()) : scores);
            });
        }
        for (int64_t vector = 0; vector < vectors; ++vector) {
            const float* const scores = memory.scores + vector * kLanes;
            Floats peak = splat(-FLT_MAX), total = {};
            for (int64_t key = 0; key < count; key += 4) peak = max(peak, load<Floats>(scores + key / 4 * vectors * kLanes));
            peak = max_of_fours(peak);
            for (int64_t key = 0; key < count; key += 4) total += exp2(load<Floats>(scores + key / 4 * vectors * kLanes) - peak);
            total = sum_of_fours(total);
            for (int64_t h = vector * kFours; h < min((vector + 1) * kFours, group); ++h) {
                sums.peak[h * sums.stride + i] = peak[h % kFours * 4];
                sums.total[h * sums.stride + i] = total[h % kFours * 4];
            }
        }
    }
}

void share_out(const Read& read, const Sums& sums) {
    const int64_t group = read.group();
    Arena measure(nullptr);
    measure.take<float>(sums.stride);
    Arena arena(thread_scratch(Use::task, measure.taken()));
    float* const shares = arena.take<float>(sums.stride);
    for (int64_t i = 0; i < sums.stride; ++i) shares[i] = 0;
    for (int64_t h = 0; h < group; ++h) {
        float* const peaks = sums.peak + h * sums.stride;
        float* const totals = sums.total + h * sums.stride;
        float peak = -FLT_MAX, total = 0;
        for (int64_t i = 0; i < sums.blocks; ++i) peak = peaks[i] > peak ? peaks[i] : peak;
        for (int64_t i = sums.blocks; i < sums.stride; ++i) peaks[i] = totals[i] = 0;
        for (int64_t i = 0; i < sums.stride; i += kLanes) {
            store(totals + i, load<Floats>(totals + i) * exp2(load<Floats>(peaks + i) - splat(peak)));
        }
        for (int64_t i = 0; i < sums.blocks; ++i) total += totals[i];
        const Floats scale = splat(1 / (total * group));
        for (int64_t i = 0; i < sums.stride; i += kLanes) {
            store(shares + i, multiply_add(load<Floats>(totals + i), scale, load<Floats>(shares + i)));
        }
    }
    float* const mass = read.call.mass + (read.token * read.call.kv_heads + read.kv_head) * read.call.table_width;
    for (int64_t i = 0; i < sums.blocks; ++i) mass[read.block(i)] = shares[i];
}

template <class Element>
void run(const BlockMassCall& call) {
    const int64_t reads = call.watched * call.kv_heads;
    const auto read_of = [&](int64_t i) { return Read{call, i / call.kv_heads, i % call.kv_heads}; };
    Sums* sums = nullptr;
    int64_t* first_task = nullptr;
    const auto build = [&](Arena& arena) {
        sums = arena.take<Sums>(reads);
        first_task = arena.take<int64_t>(reads + 1);
        int64_t tasks = 0;
        for (int64_t i = 0; i < reads; ++i) {
            const Sums own = Sums::take(arena, read_of(i).blocks(), call.heads / call.kv_heads);
            if (!arena.measures()) sums[i] = own, first_task[i] = tasks;
            tasks += divide_up(own.blocks, kBlocksOfTask);
        }
        if (!arena.measures()) first_task[reads] = tasks;
    };
    Arena measure(nullptr);
    build(measure);
    Arena arena(thread_scratch(Use::call, measure.taken()));
    build(arena);
    parallel_for(call.num_threads, first_task[reads], [&](int64_t task) {
        int64_t i = 0;
        while (first_task[i + 1] <= task) ++i;
        const int64_t first = (task - first_task[i]) * kBlocksOfTask;
        sum_blocks<Element>(read_of(i), sums[i], first, min(first + kBlocksOfTask, sums[i].blocks));
    });
    parallel_for(call.num_threads, reads, [&](int64_t i) { share_out(read_of(i), sums[i]); });
}

}  // namespace

void block_mass(const BlockMassCall& call) {
    switch (call.dtype) {
        case DType::float32: return run<float>(call);
        case DType::bfloat16: return run<BFloat16>(call);
        case DType::float16: return run<Float16>(call);
    }
}

}  // namespace openm3::OPENM3_ISA
