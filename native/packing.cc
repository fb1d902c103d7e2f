#include "packing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace runoff {
namespace {

int values_of_group(Kind kind) { return kind == Kind::f32 ? 1 : kind == Kind::i16 ? 2 : 4; }

// What the output's weights are multiplied with before they are rounded; 0 for weights that are all zero, and not a
// number where one of them is not finite: it must not vanish in the integers.
float factor_of(Kind kind, const float* weights, int inputs) {
  double squares = 0.0;
  float widest = 0.0f;  // pair of neighbours
  for (int k = 0; k < inputs; ++k) {
    squares += static_cast<double>(weights[k]) * weights[k];
    const float neighbour = k % 2 == 0 && k + 1 < inputs ? std::fabs(weights[k + 1]) : 0.0f;
    widest = std::max(widest, std::fabs(weights[k]) + neighbour);
  }
  if (!std::isfinite(squares) || !std::isfinite(widest)) return NAN;
  if (widest == 0.0f) return 0.0f;
  // Rounding may lengthen the vector by half a unit in every direction, and a pair by one unit.
  const double by_norm = (kWeightNorm - 0.5 * std::sqrt(static_cast<double>(inputs))) / std::sqrt(squares);
  const double factor = kind == Kind::i16 ? by_norm : (kPairPeak - 1.0) / widest;
  return factor < 3e38 ? static_cast<float>(factor) : 0.0f;
}

}  // namespace

int rounded_up(int count, int multiple) { return (count + multiple - 1) / multiple * multiple; }

std::size_t panel_bytes(Kind kind, int outputs, int inputs) {
  const int group = values_of_group(kind);
  return static_cast<std::size_t>(rounded_up(outputs, kPanel)) * (rounded_up(inputs, group) / group) * 4;
}

std::size_t row_bytes(Kind kind, ByteForm form, int columns) {
  const bool is_byte = kind == Kind::i8 && form != ByteForm::s16s16;
  const int group = kind == Kind::f32 ? 1 : is_byte ? 4 : 2;
  return static_cast<std::size_t>(rounded_up(columns, group) / group) * 4;
}

Packed pack(Kind kind, const float* weights, int outputs, int inputs) {
  const int group = values_of_group(kind), bytes = 4 / group, padded = rounded_up(outputs, kPanel);
  Packed packed;
  packed.kind = kind;
  packed.outputs = outputs;
  packed.inputs = inputs;
  packed.panels.assign(panel_bytes(kind, outputs, inputs), 0);
  if (kind != Kind::f32) packed.scales.assign(padded, 0.0f);
  const std::size_t steps = rounded_up(inputs, group) / group;
  for (int n = 0; n < outputs; ++n) {
    const float* row = weights + static_cast<std::size_t>(n) * inputs;
    std::uint8_t* to = packed.panels.data() + ((n / kPanel) * steps * kPanel + n % kPanel) * 4;
    const float factor = kind == Kind::f32 ? 1.0f : factor_of(kind, row, inputs);
    if (kind != Kind::f32) packed.scales[n] = factor > 0.0f ? 1.0f / factor : factor;
    if (!(factor > 0.0f)) continue;
    for (int k = 0; k < inputs; ++k) {
      std::uint8_t* place = to + static_cast<std::size_t>(k / group) * 4 * kPanel + k % group * bytes;
      if (kind == Kind::f32) {
        std::memcpy(place, row + k, 4);
        continue;
      }
      const auto integer = static_cast<std::int16_t>(std::nearbyintf(row[k] * factor));
      std::memcpy(place, &integer, bytes);  // little endian: the low byte is an int8's only one
    }
  }
  if (kind == Kind::i8) {
    packed.sums = byte_sums(reinterpret_cast<const std::int8_t*>(packed.panels.data()), outputs, inputs);
  }
  return packed;
}

std::vector<std::int32_t> byte_sums(const std::int8_t* panels, int outputs, int inputs) {
  std::vector<std::int32_t> sums(rounded_up(outputs, kPanel), 0);
  for (std::size_t panel = 0; panel < sums.size(); panel += kPanel) {
    for (int step = 0; step < rounded_up(inputs, 4) / 4; ++step) {
      for (int n = 0; n < kPanel; ++n, panels += 4) {
        sums[panel + n] += panels[0] + panels[1] + panels[2] + panels[3];
      }
    }
  }
  return sums;
}

std::vector<std::uint8_t> widened(const std::int8_t* panels, int outputs, int inputs) {
  const std::size_t from_steps = rounded_up(inputs, 4) / 4, to_steps = rounded_up(inputs, 2) / 2;
  std::vector<std::uint8_t> wide(panel_bytes(Kind::i16, outputs, inputs));
  auto* to = reinterpret_cast<std::int16_t*>(wide.data());
  for (int panel = 0; panel < rounded_up(outputs, kPanel) / kPanel; ++panel) {
    for (std::size_t step = 0; step < to_steps; ++step) {
      const std::int8_t* from = panels + (panel * from_steps + step / 2) * 4 * kPanel + step % 2 * 2;
      for (int n = 0; n < kPanel; ++n, to += 2, from += 4) {
        to[0] = from[0];
        to[1] = from[1];
      }
    }
  }
  return wide;
}

}  // namespace runoff
