// Operands of a single kernel call, with their memory: for the probes and for the kernels' own tests.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace runoff {

struct Quantised {
  std::vector<std::uint8_t> data;
  std::vector<RowUnit> units;
  Rows rows;
};

// `x` [rows][columns] as products of `kind` read it.
inline Quantised quantised(const Kernels& k, Kind kind, const float* x, int rows, int columns) {
  Quantised q;
  const auto bytes = static_cast<std::ptrdiff_t>(row_bytes(kind, k.byte_form, columns));
  q.data.resize(bytes * rows);
  q.units.resize(rows);
  k.quantise(kind, x, columns, rows, columns, q.data.data(), bytes, q.units.data());
  q.rows.data = q.data.data();
  q.rows.stride = bytes;
  q.rows.units = q.units.data();
  return q;
}

// Attention of all queries of one sequence in one head; everything is [length][size].
inline Attention attention_of(const float* query, const float* key, const float* value, float* out, float* scratch,
                              int length, int window, int size) {
  Attention a;
  a.query = query;
  a.key = key;
  a.value = value;
  a.stride = a.out_stride = size;
  a.out = out;
  a.length = a.last = length;
  a.window = window;
  a.head_size = size;
  a.scratch = scratch;
  return a;
}

}  // namespace runoff
