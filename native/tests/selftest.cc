// Stub, until the kernels' tests are written: prints the instruction sets that run here.
#include <cstdio>

#include "cpu.h"

int main() {
  for (const std::string& name : runoff::available_isas()) std::printf("%s\n", name.c_str());
}
