// What this processor and its operating system can run.
#pragma once

#include <string>
#include <vector>

namespace runoff {

struct CpuFeatures {
  bool avx2 = false;
  bool fma = false;
  bool f16c = false;
  bool avx512 = false;  // F, BW, DQ and VL
  bool avx512vnni = false;
  bool avxvnni = false;
  bool neon = false;
  bool dotprod = false;
};

// Asked of the processor once. A feature counts only where the operating system keeps its registers.
const CpuFeatures& cpu_features();

// The names of the kernels that are compiled in and run here, best first; "portable" is always there.
std::vector<std::string> available_isas();

}  // namespace runoff
