// Attention over every position up to the query's own.
//
// The context is cut into chunks at fixed positions. A chunk's partial result is gathered tile by tile, and the chunks
// are merged in order: by one thread as it goes along where there are rows enough to keep all threads busy, else by the
// last of the threads that shared them. Either way a row adds up in the same order, so its bits depend on nothing but
// its own context.
#include "attention_tile.h"
#include "threads.h"

namespace openm3::OPENM3_ISA {
namespace {

constexpr int64_t kTileKeys = 128;

// Chunks of 512 positions up to 64K, then 64 in each doubling: their number stays small in a long context.
int64_t chunk_start(int64_t chunk) {
    return chunk < 64 ? chunk * 512 : (64 + chunk % 64) * 512 << (chunk / 64 - 1);
}

int64_t chunk_count(int64_t keys) {
    int64_t chunks = 0;
    while (chunk_start(chunks) < keys) ++chunks;
    return chunks;
}

// One sequence, cut into units: a few tokens of some heads of a group, rows that share a tile.
struct Plan {
    int64_t first_token, tokens, context;
    int64_t heads_per_unit, slices, tokens_per_unit, units, rows_per_unit;
    int64_t chunks, parts;  // a task is one of the `parts` of a unit's chunks
    int64_t first_task;
    Partial* results;     // [units][chunks], where a unit has several parts
    int32_t* unfinished;  // [units], parts still to come

    // Without `parts`, which depends on how much there is in all.
    Plan(const AttentionCall& call, int64_t sequence) {
        first_token = call.query_start[sequence];
        tokens = call.query_start[sequence + 1] - first_token;
        context = call.context_len[sequence];
        const int64_t group = call.heads / call.kv_heads;
        heads_per_unit = min(group, kMaxRows);
        slices = divide_up(group, heads_per_unit);
        tokens_per_unit = min(tokens, kMaxRows / heads_per_unit);
        rows_per_unit = tokens_per_unit * heads_per_unit;
        units = divide_up(tokens, tokens_per_unit) * slices * call.kv_heads;
        chunks = chunk_count(context);
    }

    // Some tasks for each thread, so that they end at about the same time, and long ones, which read ahead better.
    void share(const AttentionCall& call, int64_t all_units, Arena& arena) {
        parts = call.num_threads == 1 ? 1 : min(divide_up(4 * call.num_threads, all_units), chunks);
        if (parts == 1) return;
        results = arena.take<Partial>(units * chunks);
        unfinished = arena.take<int32_t>(units);
        for (int64_t i = 0; i < units * chunks; ++i) {
            const Partial result = Partial::take(arena, rows_per_unit, call.head_size);
            if (!arena.measures()) results[i] = result;
        }
        for (int64_t i = 0; i < units && !arena.measures(); ++i) unfinished[i] = static_cast<int32_t>(parts);
    }
};

template <class Element>
class Unit {
public:
    Unit(const AttentionCall& call, const Plan& plan, int64_t sequence, int64_t unit)
        : call_(call), plan_(plan), sequence_(sequence), kv_head_(unit % call.kv_heads) {
        const int64_t group = call.heads / call.kv_heads;
        const int64_t slice = unit / call.kv_heads % plan.slices * plan.heads_per_unit;
        first_head_ = kv_head_ * group + slice;
        heads_ = min(group - slice, plan.heads_per_unit);
        first_token_ = unit / call.kv_heads / plan.slices * plan.tokens_per_unit;
        tokens_ = min(plan.tokens - first_token_, plan.tokens_per_unit);
    }

    // Positions that the last of the rows sees.
    int64_t visible() const { return plan_.context - plan_.tokens + first_token_ + tokens_; }

    int64_t rows() const { return tokens_ * heads_; }

    void start(Tile<Element>& tile) const {
        tile.start(rows());
        for (int64_t i = 0; i < tokens_; ++i) {
            const int64_t token = plan_.first_token + first_token_ + i;
            const int64_t offset = token * call_.q_token_stride + first_head_ * call_.q_head_stride;
            tile.set_rows(i * heads_, heads_, static_cast<const Element*>(call_.q) + offset, call_.q_head_stride,
                          visible() - tokens_ + i);
        }
    }

    // Reads ahead up to the chunk `last`, not included.
    void attend(Tile<Element>& tile, int64_t chunk, int64_t last, Partial result) const {
        const Pages<Element> pages(call_, sequence_, kv_head_);
        const int64_t end = min(chunk_start(chunk + 1), visible()), read_end = min(chunk_start(last), visible());
        result.clear(rows(), call_.head_size);
        for (int64_t first = chunk_start(chunk); first < end; first += kTileKeys) {
            const int64_t count = min(end - first, kTileKeys);
            const int64_t next = first + count < read_end ? first + count : first;
            merge(result, tile.attend(pages, first, count, next), 0, rows(), call_.head_size);
        }
    }

    void write(Partial result) const {
        for (int64_t i = 0; i < tokens_; ++i) {
            const int64_t row = (plan_.first_token + first_token_ + i) * call_.heads + first_head_;
            finish(result, i * heads_, heads_, call_.head_size,
                   static_cast<Element*>(call_.out) + row * call_.head_size, call_.lse ? call_.lse + row : nullptr);
        }
    }

private:
    const AttentionCall& call_;
    const Plan& plan_;
    int64_t sequence_, kv_head_, first_head_, heads_, first_token_, tokens_;
};

template <class Element>
void run_task(const AttentionCall& call, const Plan& plan, int64_t sequence, int64_t task) {
    const auto build = [&](Arena& arena) {
        struct {
            Tile<Element> tile;
            Partial sum, chunk;
        } memory{{arena, call.head_size, call.scale},
                 Partial::take(arena, kMaxRows, call.head_size),
                 Partial::take(arena, kMaxRows, call.head_size)};
        return memory;
    };
    Arena measure(nullptr);
    build(measure);
    Arena arena(thread_scratch(Use::task, measure.taken()));
    auto memory = build(arena);
    const int64_t number = task / plan.parts, part = task % plan.parts;
    const Unit<Element> unit(call, plan, sequence, number);
    const int64_t first = chunk_count(unit.visible() * part / plan.parts);
    const int64_t end = chunk_count(unit.visible() * (part + 1) / plan.parts);
    const Partial sum = memory.sum;
    unit.start(memory.tile);
    sum.clear(unit.rows(), call.head_size);
    if (plan.parts == 1) {
        for (int64_t i = first; i < end; ++i) {
            unit.attend(memory.tile, i, end, memory.chunk);
            merge(sum, memory.chunk, 0, unit.rows(), call.head_size);
        }
    } else {
        const Partial* results = plan.results + number * plan.chunks;
        for (int64_t i = first; i < end; ++i) unit.attend(memory.tile, i, end, results[i]);
        if (__atomic_sub_fetch(&plan.unfinished[number], 1, __ATOMIC_ACQ_REL) > 0) return;
        for (int64_t i = 0; i < chunk_count(unit.visible()); ++i) merge(sum, results[i], 0, unit.rows(), call.head_size);
    }
    unit.write(sum);
}

template <class Element>
void run(const AttentionCall& call) {
    Plan* plans = nullptr;
    int64_t tasks = 0;
    const auto build = [&](Arena& arena) {
        plans = arena.take<Plan>(call.sequences);
        tasks = 0;
        int64_t units = 0;
        for (int64_t b = 0; b < call.sequences; ++b) units += Plan(call, b).units;
        for (int64_t b = 0; b < call.sequences; ++b) {
            Plan plan(call, b);
            plan.share(call, units, arena);
            plan.first_task = tasks;
            tasks += plan.units * plan.parts;
            if (!arena.measures()) plans[b] = plan;
        }
    };
    Arena measure(nullptr);
    build(measure);
    Arena arena(thread_scratch(Use::call, measure.taken()));
    build(arena);
    parallel_for(call.num_threads, tasks, [&](int64_t task) {
        int64_t b = 0;
        while (b + 1 < call.sequences && plans[b + 1].first_task <= task) ++b;
        run_task<Element>(call, plans[b], b, task - plans[b].first_task);
    });
}

}  // namespace

void dense_attention(const AttentionCall& call) {
    switch (call.dtype) {
        case DType::float32: return run<float>(call);
        case DType::bfloat16: return run<BFloat16>(call);
        case DType::float16: return run<Float16>(call);
    }
}

}  // namespace openm3::OPENM3_ISA
