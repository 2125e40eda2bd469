// Parallel loops on torch's own threads, and memory that a thread keeps between calls.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace openm3 {

// Calls body(context) on `num_threads` threads at once, this one among them, and waits for all.
void run_team(int num_threads, void (*body)(void*), void* context);

// Runs task(0) ... task(count - 1), each once. Threads take the next task as they finish one, so tasks may differ in
// size; results must not depend on which thread runs which.
template <class Task>
void parallel_for(int num_threads, int64_t count, const Task& task) {
    struct Shared {
        const Task& task;
        int64_t count;
        std::atomic<int64_t> next{0};
    } shared{task, count};
    const auto body = [](void* context) {
        Shared& work = *static_cast<Shared*>(context);
        for (int64_t i; (i = work.next.fetch_add(1, std::memory_order_relaxed)) < work.count;) work.task(i);
    };
    const int useful = static_cast<int>(std::min<int64_t>(num_threads, count));
    if (useful <= 1) {
        body(&shared);
    } else {
        run_team(num_threads, body, &shared);
    }
}

// `bytes` of this thread's own memory, aligned to a cache line, contents undefined. It is kept between calls, so that a
// decode step allocates nothing; a later call for the same use may move it.
enum class Use { call, task, chain };  // what all tasks of a call share; what one task needs; what calls share
char* thread_scratch(Use use, size_t bytes);

}  // namespace openm3
