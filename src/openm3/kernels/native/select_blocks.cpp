// A query's own block is always chosen, and the blocks before it are full and seen whole: so no block is ever scored in
// part, and slots that were not written are never read.
//
// The rows of some tokens that read one key head are a unit: it has the scores of its blocks, then it chooses. Where
// units are few, as in decoding, threads share the blocks of each. With quantised keys all blocks are bounded first, and
// only rows that the bounds leave open are scored.
#include "select_blocks.h"

#include "block_bounds.h"
#include "block_scores.h"
#include "nth_largest.h"
#include "threads.h"

namespace openm3::OPENM3_ISA {
namespace {

constexpr int64_t kBoundedBlocks = 8;  // for each slot that a group fills: with fewer, bounds leave too many open
constexpr int64_t kTaskBlocks = 8;     // that are worth a task
constexpr int64_t kTileRows = 96;      // multiplied with a block together: all that needs stays in the first cache
constexpr int64_t kUnitTiles = 4;      // so that a block that is scored at last is read for many rows

// The heads of some tokens that read one key head, and the scores of their blocks.
struct Unit {
    int64_t sequence, key_head;
    int64_t first_token, tokens, first_position;
    int64_t slots, open_slots;  // blocks of a token, and those of them that scores choose
    int64_t blocks;  // between the first ones and the local ones of the last token: one may have to choose among them
    int64_t padded_blocks;  // whole vectors of them
    int64_t stride;         // from one row's blocks to the next one's
    bool bounded;           // bounds first
    bool shared;            // its tasks are parts of its blocks, else there is one
    int64_t tasks, first_task;
    int32_t unfinished;

    float* scores;  // [tokens][groups][stride]; where bounded first the lower bounds
    float* upper;   // [heads][tokens][stride], where bounded
    int32_t* open;  // [blocks], those of which some score is needed, where bounded
    int64_t num_open;
};

// A part of blocks.
struct Part {
    Part(int64_t count, int64_t part, int64_t parts) : begin(part * count / parts), end((part + 1) * count / parts) {}
    int64_t begin, end;
};

template <class Element>
class Selection {
public:
    explicit Selection(const SelectCall& call)
        : call_(call),
          heads_(call.heads / call.key_heads),
          unit_groups_(call.groups / call.key_heads),
          group_heads_(call.heads / call.groups),
          tile_tokens_(heads_ < kTileRows ? kTileRows / heads_ : 1) {}

    void run() {
        plan();
        for_tasks([&](Unit& unit, int64_t task, Scratch& scratch) {
            const Part part(unit.blocks, task, unit.tasks);
            unit.bounded ? bound(unit, part, scratch) : score(unit, part, scratch);
            if (!is_last(unit)) return;
            if (unit.bounded) settle(unit, scratch);
            if (unit.bounded && unit.shared) return;
            if (unit.bounded) score_open(unit, Part(unit.num_open, 0, 1), scratch);
            choose(unit);
        });
        if (!scores_later_) return;
        for_tasks([&](Unit& unit, int64_t task, Scratch& scratch) {
            if (!unit.bounded || !unit.shared) return;
            score_open(unit, Part(unit.num_open, task, unit.tasks), scratch);
            if (is_last(unit)) choose(unit);
        });
    }

private:
    // What a task works with.
    struct Scratch {
        Scratch(Arena& arena, const Unit& unit, int64_t rows, int64_t tile_rows, int64_t head_size)
            : scorer(arena, unit.bounded ? rows : tile_rows, head_size),
              bounds(arena, unit.bounded ? tile_rows : 0, head_size),
              lists(arena.take<int32_t>(unit.bounded ? rows : 0)),
              upper(arena.take<float>(unit.bounded ? unit.padded_blocks : 0)),
              marks(arena.take<int32_t>(unit.bounded ? unit.padded_blocks : 0)) {}

        BlockScores<Element> scorer;
        BlockBounds bounds;
        int32_t* lists;  // [rows], of each row to score the list of blocks that the score belongs to
        float* upper;    // [blocks], of a group
        int32_t* marks;  // [blocks]
    };

    void plan() {
        const auto build = [&](Arena& arena) {
            int64_t count = 0;
            for (int64_t b = 0; b < call_.sequences; ++b) count += units_of(b);
            units_ = arena.take<Unit>(count);
            num_units_ = num_tasks_ = 0;
            num_threads_ = 1;
            scores_later_ = false;
            for (int64_t b = 0; b < call_.sequences; ++b) {
                for (int64_t i = 0; i < units_of(b); ++i) {
                    Unit unit = cut(b, i);
                    if (unit.shared) take(unit, arena);
                    unit.first_task = num_tasks_;
                    num_tasks_ += unit.tasks;
                    if (unit.blocks > 0) num_threads_ = call_.num_threads;
                    scores_later_ |= unit.bounded && unit.shared;
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

    int64_t unit_tokens() const { return kUnitTiles * tile_tokens_; }

    int64_t units_of(int64_t sequence) const {
        return divide_up(tokens_of(sequence), unit_tokens()) * call_.key_heads;
    }

    Unit cut(int64_t sequence, int64_t number) const {
        Unit unit{};
        const int64_t tokens = tokens_of(sequence), begin = number / call_.key_heads * unit_tokens();
        unit.sequence = sequence;
        unit.key_head = number % call_.key_heads;
        unit.first_token = call_.query_start[sequence] + begin;
        unit.tokens = min(tokens - begin, unit_tokens());
        unit.first_position = call_.context_len[sequence] - tokens + begin;
        const int64_t own = (unit.first_position + unit.tokens - 1) / call_.page_size;
        unit.slots = call_.topk ? call_.topk[sequence] : call_.blocks_per_query;
        unit.open_slots = unit.slots - call_.init_blocks - call_.local_blocks;
        if (own >= unit.slots && unit.open_slots > 0) unit.blocks = visible_blocks(own);
        unit.padded_blocks = round_up(unit.blocks, kLanes);
        unit.stride = unit.padded_blocks + kLanes;  // no power of two, whose multiples would share few lines of the cache
        unit.bounded = call_.quantised.keys && unit.blocks > 0 &&
                       unit.blocks >= kBoundedBlocks * unit.open_slots * unit_groups_;
        unit.shared = units_of(sequence) < 4 * call_.num_threads;
        unit.tasks = unit.shared ? min(4 * call_.num_threads, divide_up(unit.blocks, kTaskBlocks)) : 1;
        if (unit.tasks == 0) unit.tasks = 1;
        unit.unfinished = static_cast<int32_t>(unit.tasks);
        return unit;
    }

    // Memory of a unit's blocks.
    void take(Unit& unit, Arena& arena) const {
        unit.scores = arena.take<float>(unit.tokens * unit_groups_ * unit.stride);
        if (!unit.bounded) return;
        unit.upper = arena.take<float>(unit.tokens * heads_ * unit.stride);
        unit.open = arena.take<int32_t>(unit.blocks);
    }

    template <class Body>
    void for_tasks(const Body& body) {
        parallel_for(num_threads_, num_tasks_, [&](int64_t task) {
            int64_t i = 0;
            while (i + 1 < num_units_ && units_[i + 1].first_task <= task) ++i;
            Unit& unit = units_[i];
            const auto build = [&](Arena& arena) {
                if (!unit.shared) take(unit, arena);
                const int64_t tile_rows = min(unit.tokens, tile_tokens_) * heads_;
                return Scratch(arena, unit, unit.tokens * heads_, tile_rows, call_.head_size);
            };
            Arena measure(nullptr);
            build(measure);
            Arena arena(thread_scratch(Use::task, measure.taken()));
            Scratch scratch = build(arena);
            body(unit, task - unit.first_task, scratch);
        });
    }

    // Whether all other tasks of the unit have ended. The counter then stands for another round of tasks.
    static bool is_last(Unit& unit) {
        if (__atomic_sub_fetch(&unit.unfinished, 1, __ATOMIC_ACQ_REL) > 0) return false;
        unit.unfinished = static_cast<int32_t>(unit.tasks);
        return true;
    }

    // Blocks that a token of block `own` may choose or not.
    int64_t visible_blocks(int64_t own) const { return own + 1 - call_.local_blocks - call_.init_blocks; }

    int64_t own_block(const Unit& unit, int64_t token) const { return (unit.first_position + token) / call_.page_size; }

    int64_t page(const Unit& unit, int64_t block) const {
        return call_.page_table[unit.sequence * call_.table_width + call_.init_blocks + block];
    }

    const Element* query(const Unit& unit, int64_t head, int64_t token) const {
        return static_cast<const Element*>(call_.q) + (unit.first_token + token) * call_.q_token_stride +
               (unit.key_head * heads_ + head) * call_.q_head_stride;
    }

    const Element* keys(const Unit& unit, int64_t block) const {
        return static_cast<const Element*>(call_.k) + page(unit, block) * call_.page_stride +
               unit.key_head * call_.head_stride;
    }

    // Scores of the list of blocks that a token's group chooses from.
    float* scores(const Unit& unit, int64_t token, int64_t group) const {
        return unit.scores + (token * unit_groups_ + group) * unit.stride;
    }

    float* upper(const Unit& unit, int64_t head, int64_t token) const {
        return unit.upper + (head * unit.tokens + token) * unit.stride;
    }

    // body(token, group) for each of `tokens` tokens.
    template <class Body>
    void for_lists(int64_t tokens, const Body& body) const {
        for (int64_t token = 0; token < tokens; ++token) {
            for (int64_t group = 0; group < unit_groups_; ++group) body(token, group);
        }
    }

    // The maximum of of_head over the heads of a group, within the finite range.
    template <class OfHead>
    float group_maximum(int64_t group, const OfHead& of_head) const {
        float best = -FLT_MAX;
        for (int64_t head = group * group_heads_; head < (group + 1) * group_heads_; ++head) {
            const float value = of_head(head);
            best = value > best ? value : best;
        }
        return best < FLT_MAX ? best : FLT_MAX;
    }

    // body(first token, tokens) for each tile; its rows are ordered by head, then token.
    template <class Body>
    void for_tiles(const Unit& unit, const Body& body) const {
        for (int64_t first = 0; first < unit.tokens; first += tile_tokens_) {
            body(first, min(unit.tokens - first, tile_tokens_));
        }
    }

    void score(Unit& unit, Part part, Scratch& scratch) const {
        if (part.begin == part.end) return;
        for_tiles(unit, [&](int64_t first, int64_t tokens) {
            const int64_t rows = tokens * heads_;
            scratch.scorer.set_rows(rows);
            for (int64_t row = 0; row < rows; ++row) {
                scratch.scorer.set_row(row, query(unit, row / tokens, first + row % tokens));
            }
            for (int64_t block = part.begin; block < part.end; ++block) {
                scratch.scorer.score(keys(unit, block), call_.slot_stride, call_.page_size,
                                     keys(unit, min(block + 1, part.end - 1)));
                for_lists(tokens, [&](int64_t token, int64_t group) {
                    scores(unit, first + token, group)[block] = group_maximum(
                        group, [&](int64_t head) { return scratch.scorer.best(head * tokens + token); });
                });
            }
        });
    }

    QuantisedBlock quantised(const Unit& unit, int64_t block) const {
        const int64_t at = page(unit, block) * call_.key_heads + unit.key_head;
        return {call_.quantised.keys + at * padded_tokens(call_.page_size) * call_.head_size,
                call_.quantised.centres + at * call_.head_size, call_.quantised.bounds + at};
    }

    void bound(Unit& unit, Part part, Scratch& scratch) const {
        for_tiles(unit, [&](int64_t first, int64_t tokens) {
            const int64_t rows = tokens * heads_;
            for (int64_t row = 0; row < rows; ++row) {
                scratch.bounds.set_row(row, query(unit, row / tokens, first + row % tokens));
            }
            for (int64_t block = part.begin; block < part.end; ++block) {
                scratch.bounds.bound(quantised(unit, block), padded_tokens(call_.page_size),
                                     quantised(unit, min(block + 1, part.end - 1)));
                for (int64_t head = 0; head < heads_; ++head) {
                    for (int64_t token = 0; token < tokens; ++token) {
                        upper(unit, head, first + token)[block] = scratch.bounds.upper(head * tokens + token);
                    }
                }
                for_lists(tokens, [&](int64_t token, int64_t group) {
                    scores(unit, first + token, group)[block] = group_maximum(
                        group, [&](int64_t head) { return scratch.bounds.lower(head * tokens + token); });
                });
            }
        });
    }

    // Lists the blocks that the bounds leave open. With m slots to fill, a block is out if m others have lower bounds
    // above its upper one: its score becomes -infinity. It is in if fewer than m others have upper bounds that reach its
    // lower one: its score becomes +infinity. Either keeps the order of the rest.
    void settle(Unit& unit, Scratch& scratch) const {
        for (int64_t block = 0; block < unit.padded_blocks; ++block) scratch.marks[block] = false;
        for_lists(unit.tokens, [&](int64_t token, int64_t group) {
            float* const lower_bounds = scores(unit, token, group);
            for (int64_t block = 0; block < unit.padded_blocks; block += kLanes) {
                Floats highest = splat(-FLT_MAX);
                for (int64_t head = group * group_heads_; head < (group + 1) * group_heads_; ++head) {
                    highest = max(load<Floats>(upper(unit, head, token) + block), highest);
                }
                store(scratch.upper + block, highest);
            }
            const int64_t visible = visible_blocks(own_block(unit, token));
            hide(unit, lower_bounds, visible);
            hide(unit, scratch.upper, visible);
            const Floats enough = splat(nth_largest(lower_bounds, unit.padded_blocks, unit.open_slots));
            const Floats reached = splat(nth_largest(scratch.upper, unit.padded_blocks, unit.open_slots + 1));
            for (int64_t block = 0; block < unit.padded_blocks; block += kLanes) {
                const Floats lower = load<Floats>(lower_bounds + block);
                const Ints out = load<Floats>(scratch.upper + block) < enough, in = lower > reached;
                store(lower_bounds + block, out ? splat(-kInfinity) : in ? splat(kInfinity) : lower);
                store(scratch.marks + block, load<Ints>(scratch.marks + block) | ~(in | out));
            }
        });
        unit.num_open = 0;
        for (int64_t block = 0; block < unit.blocks; ++block) {
            if (scratch.marks[block]) unit.open[unit.num_open++] = static_cast<int32_t>(block);
        }
        __atomic_add_fetch(&call_.counts[0], unit.tokens * heads_ * unit.blocks, __ATOMIC_RELAXED);
    }

    // The blocks behind the `visible` ones are local ones of the list's token, or behind it. (There are fewer than none for
    // a token so early that it has no choice.)
    static void hide(const Unit& unit, float* list, int64_t visible) {
        for (int64_t block = visible < 0 ? 0 : visible; block < unit.padded_blocks; ++block) list[block] = -kInfinity;
    }

    // Of open blocks, the rows that may be the highest of their group.
    void score_open(Unit& unit, Part part, Scratch& scratch) const {
        int64_t scored = 0;
        for (int64_t i = part.begin; i < part.end; ++i) {
            const int64_t block = unit.open[i];
            int64_t count = 0;
            for_lists(unit.tokens, [&](int64_t token, int64_t group) {
                float& score = scores(unit, token, group)[block];
                const float lower = score;
                if (lower == -kInfinity || lower == kInfinity) return;
                score = -FLT_MAX;
                for (int64_t head = group * group_heads_; head < (group + 1) * group_heads_; ++head) {
                    if (upper(unit, head, token)[block] < lower) continue;
                    scratch.scorer.set_row(count, query(unit, head, token));
                    scratch.lists[count++] = static_cast<int32_t>(token * unit_groups_ + group);
                }
            });
            scored += count;
            scratch.scorer.set_rows(count);
            scratch.scorer.score(keys(unit, block), call_.slot_stride, call_.page_size,
                                 keys(unit, unit.open[min(i + 1, part.end - 1)]));
            for (int64_t n = 0; n < count; ++n) {
                float& score = unit.scores[scratch.lists[n] * unit.stride + block];
                const float value = scratch.scorer.best(n);
                score = value > score ? (value < FLT_MAX ? value : FLT_MAX) : score;
            }
        }
        __atomic_add_fetch(&call_.counts[1], scored, __ATOMIC_RELAXED);
    }

    void choose(const Unit& unit) const {
        for_lists(unit.tokens, [&](int64_t token, int64_t group) {
            const int64_t own = own_block(unit, token);
            const int64_t row = (unit.first_token + token) * call_.groups + unit.key_head * unit_groups_ + group;
            int32_t* to = call_.block_ids + row * call_.blocks_per_query;
            int32_t* const end = to + call_.blocks_per_query;
            const auto write = [&](int64_t first, int64_t last) {
                for (int64_t block = first; block < last; ++block) *to++ = static_cast<int32_t>(block);
            };
            if (own < unit.slots) {
                write(0, own + 1);
            } else {
                write(0, call_.init_blocks);
                if (unit.open_slots > 0) {
                    float* const list = scores(unit, token, group);
                    hide(unit, list, visible_blocks(own));
                    to = write_largest(list, unit.padded_blocks, unit.open_slots, call_.init_blocks, to);
                }
                write(own + 1 - call_.local_blocks, own + 1);
            }
            while (to < end) *to++ = -1;
        });
    }

    const SelectCall& call_;
    int64_t heads_, unit_groups_, group_heads_;  // heads and groups that read one key head; heads of a group
    int64_t tile_tokens_;
    Unit* units_ = nullptr;
    int64_t num_units_ = 0, num_tasks_ = 0;
    int num_threads_ = 1;  // more only where there is something to score
    bool scores_later_ = false;
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
