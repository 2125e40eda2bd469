#include "threads.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <vector>

namespace openm3 {
namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

}  // namespace

void run_team(int num_threads, void (*body)(void*), void* context) {
    // torch's OpenMP threads spin for a while after each of its operations, so a second pool would fight with them
    // for the cores. This is the entry point behind `#pragma omp parallel`, found in the library that torch loaded.
    static const auto gomp_parallel = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    if (gomp_parallel) return gomp_parallel(body, context, static_cast<unsigned>(num_threads), 0);
    std::vector<std::thread> others;
    for (int i = 1; i < num_threads; ++i) others.emplace_back(body, context);
    body(context);
    for (std::thread& other : others) other.join();
}

char* thread_scratch(Use use, size_t bytes) {
    struct Memory {
        std::unique_ptr<char, Free> start;
        size_t size = 0;
    };
    static thread_local Memory memories[3];
    Memory& memory = memories[static_cast<int>(use)];
    if (memory.size < bytes) {
        memory.size = (bytes + 4095) / 4096 * 4096;
        memory.start.reset();
        memory.start.reset(static_cast<char*>(std::aligned_alloc(64, memory.size)));
        if (!memory.start) throw std::bad_alloc();
    }
    return memory.start.get();
}

}  // namespace openm3
