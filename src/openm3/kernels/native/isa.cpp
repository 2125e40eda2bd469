#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace openm3 {
namespace {

bool machine_has(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::avx512) {
        return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq");
    }
    if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == Isa::portable;
}

Isa checked(const std::string& name) {
    for (Isa isa : {Isa::avx512, Isa::avx2, Isa::portable}) {
        if (isa_name(isa) != name) continue;
        if (!machine_has(isa)) throw std::invalid_argument("isa: this machine lacks the instructions of " + name);
        return isa;
    }
    throw std::invalid_argument("isa: expected avx512, avx2 or portable, got " + name);
}

Isa first_choice() {
    if (const char* name = std::getenv("OPENM3_ISA")) return checked(name);
    for (Isa isa : {Isa::avx512, Isa::avx2}) {
        if (machine_has(isa)) return isa;
    }
    return Isa::portable;
}

std::atomic<Isa>& chosen() {
    static std::atomic<Isa> isa{first_choice()};  // at first use, not at import: importing reads no environment
    return isa;
}

}  // namespace

Isa current_isa() { return chosen(); }

void use_isa(const std::string& name) { chosen() = checked(name); }

std::string isa_name(Isa isa) {
    return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable";
}

}  // namespace openm3
