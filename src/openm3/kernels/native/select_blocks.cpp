// A query's own block is always chosen, and the blocks before it are full and seen whole: so no block is ever scored in
// part, and slots that were not written are never read.
//
// The rows of a few tokens that read one key head are a unit: it has the scores of its blocks, then it chooses. Where
// units are few, as in decoding, threads share the blocks of each. With quantised keys, blocks are bounded first, and
// only those that might or might not be among the best are scored.
#include "select_blocks.h"

#include "block_bounds.h"
#include "block_scores.h"
#include "threads.h"

namespace openm3::OPENM3_ISA {
namespace {

constexpr int64_t kBoundedTokens = 4;  // of a sequence: with more, products take longer than reading keys
constexpr int64_t kBoundedBlocks = 8;  // for each slot to fill: with fewer, bounds leave too many open
constexpr int64_t kTaskBlocks = 8;     // that are worth a task
constexpr int64_t kUnitRows = 64;      // of a few tokens

// Replaces the least of a heap whose every element is at most its children, 2i + 1 and 2i + 2.
void replace_least(float* heap, int64_t size, float value) {
    int64_t hole = 0;
    for (int64_t child; (child = 2 * hole + 1) < size; hole = child) {
        if (child + 1 < size && heap[child + 1] < heap[child]) ++child;
        if (heap[child] >= value) break;
        heap[hole] = heap[child];
    }
    heap[hole] = value;
}

// The `rank` largest of `count` values, as a heap: the first is the least. -infinity where there are fewer.
void largest(const float* values, int64_t count, float* heap, int64_t rank) {
    for (int64_t i = 0; i < rank; ++i) heap[i] = -kInfinity;
    for (int64_t i = 0; i < count; ++i) {
        if (values[i] > heap[0]) replace_least(heap, rank, values[i]);
    }
}

struct Unit {
    int64_t sequence, key_head;
    int64_t first_token, tokens, first_position;
    int64_t slots, open_slots;  // blocks of a token, and those of them that scores choose
    int64_t blocks;    // between the first ones and the local ones of the last token: one may have to choose among them
    bool bounded;      // bounds first
    bool shared;       // its tasks are parts of its blocks, else there is one
    int64_t tasks, first_task;
    int32_t unfinished;

    float* scores;       // [tokens * groups][blocks]; first the lower bounds
    float* upper;        // [tokens * groups][blocks], where bounded
    int32_t* ambiguous;  // [blocks], the blocks to score, where bounded
    int64_t num_ambiguous;
};

template <class Element>
class Selection {
public:
    explicit Selection(const SelectCall& call)
        : call_(call),
          heads_(call.heads / call.key_heads),
          unit_groups_(call.groups / call.key_heads),
          group_heads_(call.heads / call.groups),
          unit_tokens_(heads_ < kUnitRows ? kUnitRows / heads_ : 1) {}

    void run() {
        plan();
        for_tasks([&](Unit& unit, int64_t task) {
            if (unit.bounded) {
                bound(unit, task);
                if (is_last(unit)) find_ambiguous(unit);
            } else {
                score(unit, task);
            }
        });
        if (any_bounded_) {
            for_tasks([&](Unit& unit, int64_t task) {
                if (unit.bounded) score(unit, task);
            });
        }
    }

private:
    void plan() {
        const auto build = [&](Arena& arena) {
            int64_t count = 0;
            for (int64_t b = 0; b < call_.sequences; ++b) count += units_of(b);
            units_ = arena.take<Unit>(count);
            num_units_ = num_tasks_ = 0;
            any_bounded_ = false;
            for (int64_t b = 0; b < call_.sequences; ++b) {
                for (int64_t i = 0; i < units_of(b); ++i) {
                    Unit unit = cut(b, i);
                    take(unit, arena);
                    unit.first_task = num_tasks_;
                    num_tasks_ += unit.tasks;
                    any_bounded_ |= unit.bounded;
                    if (!arena.measures()) units_[num_units_] = unit;
                    ++num_units_;
                }
            }
        };
        Arena measure(nullptr);
        build(measure);
        Arena arena(thread_scratch(Use::call, measure.taken()));
        build(arena);
    }

    int64_t tokens_of(int64_t sequence) const { return call_.query_start[sequence + 1] - call_.query_start[sequence]; }

    int64_t units_of(int64_t sequence) const {
        return divide_up(tokens_of(sequence), unit_tokens_) * call_.key_heads;
    }

    Unit cut(int64_t sequence, int64_t number) const {
        Unit unit{};
        const int64_t tokens = tokens_of(sequence), begin = number / call_.key_heads * unit_tokens_;
        unit.sequence = sequence;
        unit.key_head = number % call_.key_heads;
        unit.first_token = call_.query_start[sequence] + begin;
        unit.tokens = min(tokens - begin, unit_tokens_);
        unit.first_position = call_.context_len[sequence] - tokens + begin;
        const int64_t own = (unit.first_position + unit.tokens - 1) / call_.page_size;
        unit.slots = call_.topk ? call_.topk[sequence] : call_.blocks_per_query;
        unit.open_slots = unit.slots - call_.init_blocks - call_.local_blocks;
        if (own >= unit.slots && unit.open_slots > 0) unit.blocks = open_blocks(own);
        unit.bounded = call_.quantised.keys && unit.blocks > 0 && tokens <= kBoundedTokens &&
                       unit.blocks >= kBoundedBlocks * unit.open_slots * unit_groups_ * unit.tokens;
        unit.shared = unit.bounded || units_of(sequence) < 4 * call_.num_threads;
        unit.tasks = unit.shared ? min(4 * call_.num_threads, divide_up(unit.blocks, kTaskBlocks)) : 1;
        if (unit.tasks == 0) unit.tasks = 1;
        unit.unfinished = static_cast<int32_t>(unit.tasks);
        return unit;
    }

    // Memory of what a unit's tasks share.
    void take(Unit& unit, Arena& arena) const {
        if (!unit.shared) return;
        unit.scores = arena.take<float>(unit.tokens * unit_groups_ * unit.blocks);
        if (!unit.bounded) return;
        unit.upper = arena.take<float>(unit.tokens * unit_groups_ * unit.blocks);
        unit.ambiguous = arena.take<int32_t>(unit.blocks);
    }

    template <class Body>
    void for_tasks(const Body& body) {
        parallel_for(call_.num_threads, num_tasks_, [&](int64_t task) {
            int64_t i = 0;
            while (i + 1 < num_units_ && units_[i + 1].first_task <= task) ++i;
            body(units_[i], task - units_[i].first_task);
        });
    }

    // Whether all other tasks of the unit have ended. The counter then stands for another round of tasks.
    static bool is_last(Unit& unit) {
        if (__atomic_sub_fetch(&unit.unfinished, 1, __ATOMIC_ACQ_REL) > 0) return false;
        unit.unfinished = static_cast<int32_t>(unit.tasks);
        return true;
    }

    // Blocks that a token of block `own` may choose or not.
    int64_t open_blocks(int64_t own) const { return own + 1 - call_.local_blocks - call_.init_blocks; }

    int64_t page(const Unit& unit, int64_t block) const {
        return call_.page_table[unit.sequence * call_.table_width + call_.init_blocks + block];
    }

    const Element* query(const Unit& unit, int64_t row) const {
        return static_cast<const Element*>(call_.q) + (unit.first_token + row / heads_) * call_.q_token_stride +
               (unit.key_head * heads_ + row % heads_) * call_.q_head_stride;
    }

    const Element* keys(const Unit& unit, int64_t block) const {
        return static_cast<const Element*>(call_.k) + page(unit, block) * call_.page_stride +
               unit.key_head * call_.head_stride;
    }

    // The maximum of of_row over the rows of a token's group, within the finite range.
    template <class OfRow>
    float group_maximum(int64_t group, const OfRow& of_row) const {
        float best = -FLT_MAX;
        for (int64_t row = group * group_heads_; row < (group + 1) * group_heads_; ++row) {
            const float value = of_row(row);
            best = value > best ? value : best;
        }
        return best < FLT_MAX ? best : FLT_MAX;
    }

    // Blocks of the unit: all, or those that are ambiguous; the task has a part of them. The last task chooses.
    void score(Unit& unit, int64_t task) {
        const int64_t rows = unit.tokens * heads_, count = unit.bounded ? unit.num_ambiguous : unit.blocks;
        const int64_t begin = task * count / unit.tasks, end = (task + 1) * count / unit.tasks;
        const auto block = [&](int64_t i) { return unit.bounded ? unit.ambiguous[i] : i; };
        const auto build = [&](Arena& arena) {
            struct {
                BlockScores<Element> scorer;
                float *scores, *heap;
            } memory{{arena, rows, call_.head_size},
                     unit.shared ? unit.scores : arena.take<float>(unit.tokens * unit_groups_ * unit.blocks),
                     arena.take<float>(unit.slots)};
            return memory;
        };
        Arena measure(nullptr);
        build(measure);
        Arena arena(thread_scratch(Use::task, measure.taken()));
        auto memory = build(arena);
        if (begin < end) {
            for (int64_t row = 0; row < rows; ++row) memory.scorer.set_row(row, query(unit, row));
        }
        for (int64_t i = begin; i < end; ++i) {
            memory.scorer.score(keys(unit, block(i)), call_.slot_stride, call_.page_size,
                                keys(unit, block(min(i + 1, end - 1))));
            for (int64_t group = 0; group < unit.tokens * unit_groups_; ++group) {
                memory.scores[group * unit.blocks + block(i)] =
                    group_maximum(group, [&](int64_t row) { return memory.scorer.best(row); });
            }
        }
        if (is_last(unit)) choose(unit, memory.scores, memory.heap);
    }

    void bound(const Unit& unit, int64_t task) {
        const int64_t rows = unit.tokens * heads_;
        const int64_t begin = task * unit.blocks / unit.tasks, end = (task + 1) * unit.blocks / unit.tasks;
        Arena measure(nullptr);
        BlockBounds(measure, rows, call_.head_size);
        Arena arena(thread_scratch(Use::task, measure.taken()));
        BlockBounds bounds(arena, rows, call_.head_size);
        for (int64_t row = 0; row < rows; ++row) bounds.set_row(row, query(unit, row));
        const auto quantised = [&](int64_t block) -> QuantisedBlock {
            const int64_t at = page(unit, block) * call_.key_heads + unit.key_head;
            return {call_.quantised.keys + at * call_.page_size * call_.head_size,
                    call_.quantised.centres + at * call_.head_size, call_.quantised.bounds + at};
        };
        for (int64_t i = begin; i < end; ++i) {
            const QuantisedBlock block = quantised(i);
            bounds.score(block, call_.page_size, quantised(min(i + 1, end - 1)));
            for (int64_t group = 0; group < unit.tokens * unit_groups_; ++group) {
                const auto range = [&](int64_t row) { return bounds.bound(row, *block.bounds); };
                const int64_t to = group * unit.blocks + i;
                unit.scores[to] = group_maximum(group, [&](int64_t row) { return range(row).lower; });
                unit.upper[to] = group_maximum(group, [&](int64_t row) { return range(row).upper; });
            }
        }
    }

    // Lists the blocks that the bounds leave open. With m slots to fill, a block is out if m others have lower bounds
    // above its upper one: its score becomes -infinity. It is in if fewer than m others have upper bounds that reach its
    // lower one: its score becomes +infinity. Either keeps the order of the rest, even where it is scored after all, for
    // another token or group.
    void find_ambiguous(Unit& unit) {
        float* const heap = reinterpret_cast<float*>(
            thread_scratch(Use::task, (unit.open_slots + 1) * sizeof(float) + unit.blocks));
        char* const marks = reinterpret_cast<char*>(heap + unit.open_slots + 1);
        for (int64_t block = 0; block < unit.blocks; ++block) marks[block] = false;
        for (int64_t i = 0; i < unit.tokens * unit_groups_; ++i) {
            const int64_t count = open_blocks((unit.first_position + i / unit_groups_) / call_.page_size);
            float* const lower = unit.scores + i * unit.blocks;
            const float* const upper = unit.upper + i * unit.blocks;
            largest(lower, count, heap, unit.open_slots);
            const float enough = heap[0];
            largest(upper, count, heap, unit.open_slots + 1);
            const float reached = heap[0];
            for (int64_t block = 0; block < count; ++block) {
                if (upper[block] < enough) {
                    lower[block] = -kInfinity;
                } else if (lower[block] > reached) {
                    lower[block] = kInfinity;
                } else {
                    marks[block] = true;
                }
            }
        }
        unit.num_ambiguous = 0;
        for (int64_t block = 0; block < unit.blocks; ++block) {
            if (marks[block]) unit.ambiguous[unit.num_ambiguous++] = static_cast<int32_t>(block);
        }
        __atomic_add_fetch(&call_.counts[0], unit.blocks, __ATOMIC_RELAXED);
        __atomic_add_fetch(&call_.counts[1], unit.num_ambiguous, __ATOMIC_RELAXED);
    }

    void choose(const Unit& unit, const float* scores, float* heap) const {
        for (int64_t i = 0; i < unit.tokens * unit_groups_; ++i) {
            const int64_t token = i / unit_groups_, group = unit.key_head * unit_groups_ + i % unit_groups_;
            const int64_t own = (unit.first_position + token) / call_.page_size;
            const int64_t row = (unit.first_token + token) * call_.groups + group;
            int32_t* to = call_.block_ids + row * call_.blocks_per_query;
            int32_t* const end = to + call_.blocks_per_query;
            const auto write = [&](int64_t first, int64_t last) {
                for (int64_t block = first; block < last; ++block) *to++ = static_cast<int32_t>(block);
            };
            if (own < unit.slots) {
                write(0, own + 1);
            } else {
                write(0, call_.init_blocks);
                write_best(scores + i * unit.blocks, open_blocks(own), heap, unit.open_slots, to);
                write(own + 1 - call_.local_blocks, own + 1);
            }
            while (to < end) *to++ = -1;
        }
    }

    // The blocks with the highest scores, ascending; at equal scores the first.
    void write_best(const float* scores, int64_t count, float* heap, int64_t slots, int32_t*& to) const {
        if (slots == 0) return;
        largest(scores, count, heap, slots);
        const float least = heap[0];
        int64_t room = 0;  // for blocks that are level with the last to get in
        for (int64_t i = 0; i < slots; ++i) room += heap[i] == least;
        for (int64_t block = 0; block < count; ++block) {
            if (scores[block] > least || (scores[block] == least && room-- > 0)) {
                *to++ = static_cast<int32_t>(call_.init_blocks + block);
            }
        }
    }

    const SelectCall& call_;
    int64_t heads_, unit_groups_, group_heads_;  // heads and groups that read one key head; heads of a group
    int64_t unit_tokens_;
    Unit* units_ = nullptr;
    int64_t num_units_ = 0, num_tasks_ = 0;
    bool any_bounded_ = false;
};

}  // namespace

void select_blocks(const SelectCall& call) {
    switch (call.dtype) {
        case DType::float32: return Selection<float>(call).run();
        case DType::bfloat16: return Selection<BFloat16>(call).run();
        case DType::float16: return Selection<Float16>(call).run();
    }
}

}  // namespace openm3::OPENM3_ISA
