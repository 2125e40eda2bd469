// Which of the compiled instruction sets runs. Every kernel is compiled once per instruction set, into the
// namespace openm3::avx512, openm3::avx2 or openm3::portable; this header declares all and picks one at run time.
#pragma once

#include <string>

namespace openm3 {

enum class Isa { portable, avx2, avx512 };

// The one in use: the best of this machine, unless the environment variable OPENM3_ISA or `use_isa` names another.
Isa current_isa();

// Throws std::invalid_argument where the name is unknown or the machine lacks the instructions.
void use_isa(const std::string& name);

std::string isa_name(Isa isa);

// Of what a kernel reads and writes; the numbers are known to native_call.py.
enum class DType { float32, bfloat16, float16 };

}  // namespace openm3

#if defined(__x86_64__)

#define OPENM3_DECLARE_KERNEL(name, Call)                 \
    namespace openm3::avx512 { void name(const Call&); }  \
    namespace openm3::avx2 { void name(const Call&); }    \
    namespace openm3::portable { void name(const Call&); }

#define OPENM3_KERNEL(name)                                                   \
    (openm3::current_isa() == openm3::Isa::avx512  ? openm3::avx512::name     \
     : openm3::current_isa() == openm3::Isa::avx2 ? openm3::avx2::name        \
                                                  : openm3::portable::name)

#else

#define OPENM3_DECLARE_KERNEL(name, Call) \
    namespace openm3::portable { void name(const Call&); }

#define OPENM3_KERNEL(name) openm3::portable::name

#endif
