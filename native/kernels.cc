// Which kernels this processor can run.

#include "kernels.h"

#include <algorithm>
#include <string>
#include <vector>

#include "cpu.h"

namespace runoff {
namespace {

struct Compiled {
  const Kernels* (*kernels)();
  bool (*runs_on)(const CpuFeatures&);
};

[[maybe_unused]] bool has_avx2(const CpuFeatures& cpu) { return cpu.avx2 && cpu.fma && cpu.f16c; }
[[maybe_unused]] bool has_avx512(const CpuFeatures& cpu) { return cpu.avx512 && cpu.fma && cpu.f16c; }

constexpr Compiled kCompiled[] = {  // best first
#ifdef RUNOFF_HAVE_AVX512VNNI
    {avx512vnni_kernels, [](const CpuFeatures& cpu) { return has_avx512(cpu) && cpu.avx512vnni; }},
#endif
#ifdef RUNOFF_HAVE_AVX512
    {avx512_kernels, has_avx512},
#endif
#ifdef RUNOFF_HAVE_AVXVNNI
    {avxvnni_kernels, [](const CpuFeatures& cpu) { return has_avx2(cpu) && cpu.avxvnni; }},
#endif
#ifdef RUNOFF_HAVE_AVX2
    {avx2_kernels, has_avx2},
#endif
#ifdef RUNOFF_HAVE_NEONDOT
    {neondot_kernels, [](const CpuFeatures& cpu) { return cpu.dotprod; }},
#endif
#ifdef RUNOFF_HAVE_NEON
    {neon_kernels, [](const CpuFeatures& cpu) { return cpu.neon; }},
#endif
    {portable_kernels, [](const CpuFeatures&) { return true; }},
};

}  // namespace

std::size_t attention_scratch(int length, int window, int queries, int head_size) {
  const std::size_t pad = kPanel - 1;
  // A block of queries sees itself, a window to each side, and what rounding down to a panel adds.
  const auto seen = [&](std::size_t rows) {
    const std::size_t all = length;
    return (window < 0 ? all : std::min(all, rows + 2 * static_cast<std::size_t>(window) + pad)) + pad;
  };
  return seen(queries) * head_size * 2 + kQueries * seen(kQueries) + static_cast<std::size_t>(kQueries) * head_size;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Compiled& each : kCompiled) {
    if (each.runs_on(cpu_features())) names.push_back(each.kernels()->name);
  }
  return names;
}

const Kernels* kernels_by_name(const char* name) {
  const std::string wanted = name;
  for (const Compiled& each : kCompiled) {
    const bool is_wanted = wanted.empty() || wanted == each.kernels()->name;
    if (is_wanted && each.runs_on(cpu_features())) return each.kernels();
  }
  return nullptr;
}

}  // namespace runoff
