// Weights -> panels (see kernels.h), and the quantisation that goes with it.
//
// i16 is fixed point with a norm as its measure. An output's weights are scaled to a Euclidean norm of at most
// kWeightNorm, a row of activations to at most 65,500; by Cauchy and Schwarz no partial sum of their products
// exceeds 32,700 * 65,500 = 2,141,850,000 < 2^31, so plain int32 additions are safe whatever the data are. The
// rounding error of an operand of K numbers is then sqrt(K / 12) / norm: 1.4e-4 of the weights' norm and 7e-5 of
// the row's at K = 256, where bfloat16's is about 1.6e-3. Only a row one of whose numbers dwarfs all others
// (peak > norm / 2) is limited by int16 instead, to 32,767 units in its peak.
//
// i8 weights are symmetric. Processors without VNNI add the products of two neighbours in a saturating int16, so an
// output's weights are scaled until no two neighbours' magnitudes exceed 128 together: with activations up to 255 that
// is 32,640 at most. It costs a third of a bit (a pair of normal numbers peaks 1.28 times higher than one), and every
// instruction set then gives the same integers. A row of activations has 256 integers from its least number (or 0) to
// its greatest: after a GELU hardly any number is below 0, and a norm's outliers have one sign, so the unit is finer
// than 1/127 of the peak. In numpy, that took the scores' noise from 2.6 to 1.9 % (runoff-nano) and from 4.3 to 2.9 %
// (all-MiniLM-L6-v2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace runoff {

constexpr float kWeightNorm = 32700.0f;
constexpr float kPairPeak = 128.0f;

struct Packed {
  Kind kind = Kind::f32;
  int outputs = 0;  // as given; panels, scales and sums are padded to a multiple of 16
  int inputs = 0;
  std::vector<std::uint8_t> panels;
  std::vector<float> scales;
  std::vector<std::int32_t> sums;
};

int rounded_up(int count, int multiple);

// Bytes of the panels of such a matrix.
std::size_t panel_bytes(Kind kind, int outputs, int inputs);

// `weights` is [outputs][inputs], row-major.
Packed pack(Kind kind, const float* weights, int outputs, int inputs);

// The sum of each output's integers, [outputs padded to 16].
std::vector<std::int32_t> byte_sums(const std::int8_t* panels, int outputs, int inputs);

// i8 panels as i16 panels of the same integers, for processors without an int8 dot product.
std::vector<std::uint8_t> widened(const std::int8_t* panels, int outputs, int inputs);

}  // namespace runoff
