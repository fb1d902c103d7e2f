// Which kernels this processor can run.

#include "kernels.h"

#include <algorithm>
#include <string>

#include "cpu.h"

namespace runoff {

std::size_t attention_scratch(int length, int window, int queries, int head_size) {
  const std::size_t pad = kPanel - 1;
  // A block of queries sees itself, a window to each side, and what rounding down to a panel adds.
  const auto seen = [&](std::size_t rows) {
    const std::size_t all = length;
    return (window < 0 ? all : std::min(all, rows + 2 * static_cast<std::size_t>(window) + pad)) + pad;
  };
  return seen(queries) * head_size * 2 + kQueries * seen(kQueries) + static_cast<std::size_t>(kQueries) * head_size;
}

const Kernels* kernels_by_name(const char* name) {
  const std::string wanted = name;
  for (const std::string& isa : available_isas()) {
    if (!wanted.empty() && wanted != isa) continue;
#ifdef RUNOFF_HAVE_AVX512VNNI
    if (isa == "avx512vnni") return avx512vnni_kernels();
#endif
#ifdef RUNOFF_HAVE_AVX512
    if (isa == "avx512") return avx512_kernels();
#endif
#ifdef RUNOFF_HAVE_AVXVNNI
    if (isa == "avxvnni") return avxvnni_kernels();
#endif
#ifdef RUNOFF_HAVE_AVX2
    if (isa == "avx2") return avx2_kernels();
#endif
#ifdef RUNOFF_HAVE_NEONDOT
    if (isa == "neondot") return neondot_kernels();
#endif
#ifdef RUNOFF_HAVE_NEON
    if (isa == "neon") return neon_kernels();
#endif
    if (isa == "portable") return portable_kernels();
  }
  return nullptr;
}

}  // namespace runoff
