// Single kernels for tests: each takes and gives numpy arrays, by the name of an instruction set.
#pragma once

#include <nanobind/nanobind.h>

namespace runoff {

void bind_probes(nanobind::module_& m);

}  // namespace runoff
