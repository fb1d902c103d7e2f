#include "cpu.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace runoff {
namespace {

#if defined(__x86_64__) || defined(__i386__)

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zeros where the processor has no such leaf.
Leaf leaf(unsigned number, unsigned part) {
  Leaf it;
  __get_cpuid_count(number, part, &it.eax, &it.ebx, &it.ecx, &it.edx);
  return it;
}

bool has_bit(unsigned bits, int index) { return (bits >> index) & 1; }

// The register files that the operating system saves when it switches threads. In assembly, because the
// intrinsic wants a flag (-mxsave) that would let the compiler use such instructions in all of this file.
unsigned saved_registers() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

CpuFeatures detect() {
  constexpr unsigned kYmm = 0x06;  // xmm and the upper halves of ymm
  constexpr unsigned kZmm = 0xe6;  // those, the masks, and both parts that zmm adds
  CpuFeatures found;
  const Leaf basic = leaf(1, 0);
  if (!has_bit(basic.ecx, 27)) return found;  // OSXSAVE: without it there is no xgetbv
  const unsigned saved = saved_registers();
  const Leaf extended = leaf(7, 0);
  // Part 1 exists where part 0 says so; elsewhere a processor may answer with another leaf's bits.
  const Leaf more = extended.eax >= 1 ? leaf(7, 1) : Leaf{};

  if ((saved & kYmm) == kYmm && has_bit(basic.ecx, 28)) {  // AVX
    found.fma = has_bit(basic.ecx, 12);
    found.f16c = has_bit(basic.ecx, 29);
    found.avx2 = has_bit(extended.ebx, 5);
    found.avxvnni = found.avx2 && has_bit(more.eax, 4);
  }
  if ((saved & kZmm) == kZmm && found.avx2) {
    const bool has_f = has_bit(extended.ebx, 16), has_dq = has_bit(extended.ebx, 17);
    const bool has_bw = has_bit(extended.ebx, 30), has_vl = has_bit(extended.ebx, 31);
    found.avx512 = has_f && has_dq && has_bw && has_vl;
    found.avx512vnni = found.avx512 && has_bit(extended.ecx, 11);
  }
  return found;
}

#elif defined(__aarch64__)

#if defined(__linux__)
bool has_dotprod() {
  constexpr unsigned long kAsimdDotProduct = 1ul << 20;  // HWCAP_ASIMDDP, which older headers do not name
  return (getauxval(AT_HWCAP) & kAsimdDotProduct) != 0;
}
#elif defined(__APPLE__)
bool has_dotprod() {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value != 0;
}
#else
bool has_dotprod() { return false; }
#endif

CpuFeatures detect() {
  CpuFeatures found;
  found.neon = true;  // part of the architecture
  found.dotprod = has_dotprod();
  return found;
}

#else

CpuFeatures detect() { return {}; }

#endif

}  // namespace

const CpuFeatures& cpu_features() {
#if defined(RUNOFF_EMULATE)
  static const CpuFeatures features = {true, true, true, true, true, true, true, true};
  (void)&detect;
#else
  static const CpuFeatures features = detect();
#endif
  return features;
}

}  // namespace runoff
