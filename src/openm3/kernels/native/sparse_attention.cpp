// Attention over the blocks that each query chose.
//
// A task takes some queries of one group and goes through their blocks in ascending order; each block is read once for
// all of them that chose it, a tile of readers at a time. A query's partial results are merged as they come, so in the
// order of its blocks, whatever the other queries chose: its bits do not depend on them. A single query is a task of
// one reader a block, and nothing else.
#include "attention_tile.h"
#include "threads.h"

namespace openm3::OPENM3_ISA {
namespace {

// Queries of a task: more share the reading of a block, but their results (8 KiB each at M3's sizes) must stay cached.
constexpr int64_t kMaxQueries = 256;
constexpr int64_t kMinQueries = 16;
constexpr int32_t kNoBlock = INT32_MAX;

// One sequence, cut into tasks: some of its queries, some heads of a group.
struct Plan {
    int64_t first_token, tokens, first_position;
    int64_t heads_per_task, slices, tokens_per_task, tasks;

    Plan(const AttentionCall& call, int64_t sequence) {
        first_token = call.query_start[sequence];
        tokens = call.query_start[sequence + 1] - first_token;
        first_position = call.context_len[sequence] - tokens;
        const int64_t group = call.heads / call.kv_heads;
        heads_per_task = min(group, kMaxRows);
        slices = divide_up(group, heads_per_task);
        const int64_t shared = divide_up(tokens * slices * call.kv_heads, 4 * call.num_threads);
        tokens_per_task = min(shared < kMinQueries ? kMinQueries : shared, kMaxQueries);
        tasks = divide_up(tokens, tokens_per_task) * slices * call.kv_heads;
    }
};

template <class Element>
void run_task(const AttentionCall& call, const Plan& plan, int64_t sequence, int64_t task) {
    const int64_t group = call.heads / call.kv_heads, head_size = call.head_size;
    const int64_t kv_head = task % call.kv_heads;
    const int64_t slice = task / call.kv_heads % plan.slices * plan.heads_per_task;
    const int64_t first_head = kv_head * group + slice, heads = min(group - slice, plan.heads_per_task);
    const int64_t first = task / call.kv_heads / plan.slices * plan.tokens_per_task;
    const int64_t queries = min(plan.tokens - first, plan.tokens_per_task);
    const int64_t first_token = plan.first_token + first, first_position = plan.first_position + first;
    const auto* const q = static_cast<const Element*>(call.q) + first_token * call.q_token_stride +
                          first_head * call.q_head_stride;

    const auto build = [&](Arena& arena) {
        struct {
            Tile<Element> tile;
            Partial* sums;              // [queries]
            const int32_t** remaining;  // [queries], the ids that a query has still to read
            int32_t *next, *readers;    // [queries]
        } memory{{arena, head_size, call.scale},
                 arena.take<Partial>(queries),
                 arena.take<const int32_t*>(queries),
                 arena.take<int32_t>(queries),
                 arena.take<int32_t>(queries)};
        for (int64_t i = 0; i < queries; ++i) {
            const Partial sum = Partial::take(arena, heads, head_size);
            if (!arena.measures()) memory.sums[i] = sum;
        }
        return memory;
    };
    Arena measure(nullptr);
    build(measure);
    Arena arena(thread_scratch(Use::task, measure.taken()));
    auto memory = build(arena);

    const auto ids_end = [&](int64_t i) {
        return call.block_ids + ((first_token + i) * call.kv_heads + kv_head + 1) * call.blocks_per_query;
    };
    const auto next_id = [&](int64_t i) {
        return memory.remaining[i] < ids_end(i) && *memory.remaining[i] >= 0 ? *memory.remaining[i] : kNoBlock;
    };
    for (int64_t i = 0; i < queries; ++i) {
        memory.sums[i].clear(heads, head_size);
        memory.remaining[i] = ids_end(i) - call.blocks_per_query;
        memory.next[i] = next_id(i);
    }

    const Pages<Element> pages(call, sequence, kv_head);
    const int64_t readers_per_tile = kMaxRows / heads;
    for (;;) {
        int32_t block = kNoBlock;
        for (int64_t i = 0; i < queries; ++i) block = memory.next[i] < block ? memory.next[i] : block;
        if (block == kNoBlock) break;
        int64_t readers = 0;
        for (int64_t i = 0; i < queries; ++i) {
            if (memory.next[i] != block) continue;
            memory.readers[readers++] = static_cast<int32_t>(i);
            ++memory.remaining[i];
            memory.next[i] = next_id(i);
        }
        int32_t next_block = kNoBlock;
        for (int64_t i = 0; i < queries; ++i) next_block = memory.next[i] < next_block ? memory.next[i] : next_block;
        const int64_t first_key = block * call.page_size;
        const int64_t next_key = (next_block == kNoBlock ? block : next_block) * call.page_size;
        for (int64_t done = 0; done < readers; done += readers_per_tile) {
            const int32_t* chosen = memory.readers + done;
            const int64_t count = min(readers - done, readers_per_tile);
            memory.tile.start(count * heads);
            for (int64_t i = 0; i < count; ++i) {
                memory.tile.set_rows(i * heads, heads, q + chosen[i] * call.q_token_stride, call.q_head_stride,
                                     first_position + chosen[i]);
            }
            const int64_t visible = first_position + chosen[count - 1] + 1 - first_key;
            const Partial result = memory.tile.attend(pages, first_key, min(visible, call.page_size), next_key);
            for (int64_t i = 0; i < count; ++i) merge(memory.sums[chosen[i]], result, i * heads, heads, head_size);
        }
    }

    for (int64_t i = 0; i < queries; ++i) {
        const int64_t row = (first_token + i) * call.heads + first_head;
        finish(memory.sums[i], 0, heads, head_size, static_cast<Element*>(call.out) + row * head_size,
               call.lse ? call.lse + row : nullptr);
    }
}

template <class Element>
void run(const AttentionCall& call) {
    int64_t tasks = 0;
    for (int64_t b = 0; b < call.sequences; ++b) tasks += Plan(call, b).tasks;
    parallel_for(call.num_threads, tasks, [&](int64_t task) {
        for (int64_t b = 0; b < call.sequences; ++b) {
            const Plan plan(call, b);
            if (task < plan.tasks) return run_task<Element>(call, plan, b, task);
            task -= plan.tasks;
        }
    });
}

}  // namespace

void sparse_attention(const AttentionCall& call) {
    switch (call.dtype) {
        case DType::float32: return run<float>(call);
        case DType::bfloat16: return run<BFloat16>(call);
        case DType::float16: return run<Float16>(call);
    }
}

}  // namespace openm3::OPENM3_ISA
