#include "matrix.h"

#include <cmath>
#include <stdexcept>

namespace runoff {

Kind kind_of(const std::string& name) {
  if (name == "f32") return Kind::f32;
  if (name == "i16") return Kind::i16;
  if (name == "i8") return Kind::i8;
  throw std::invalid_argument("expected the kind f32, i16 or i8, got " + name);
}

std::string kind_name(Kind kind) { return kind == Kind::f32 ? "f32" : kind == Kind::i16 ? "i16" : "i8"; }

const Kernels& checked_kernels(const std::string& isa) {
  if (const Kernels* kernels = kernels_by_name(isa.c_str())) return *kernels;
  throw std::invalid_argument("this processor cannot run the instruction set '" + isa + "'");
}

namespace {

// The int32 sum of an int8 product holds 131,072 inputs of 64 * 255 each (packing.h), and no more.
void check_sizes(int outputs, int inputs) {
  if (outputs < 1 || inputs < 1) throw std::invalid_argument("a weight matrix must not be empty");
  if (outputs > 1 << 24 || inputs > 1 << 17) throw std::invalid_argument("a weight matrix is too large");
}

}  // namespace

void Matrix::point(const float* bias, std::size_t bias_count) {
  linear_.kind = packed_.kind;
  linear_.outputs = packed_.outputs;
  linear_.inputs = packed_.inputs;
  if (!packed_.panels.empty()) linear_.panels = packed_.panels.data();
  if (!packed_.scales.empty()) linear_.scales = packed_.scales.data();
  if (!packed_.sums.empty()) linear_.sums = packed_.sums.data();
  if (!bias) return;
  if (bias_count != static_cast<std::size_t>(packed_.outputs)) {
    throw std::invalid_argument("expected a bias of " + std::to_string(packed_.outputs) + " numbers, got " +
                                std::to_string(bias_count));
  }
  bias_.assign(rounded_up(packed_.outputs, kPanel), 0.0f);
  std::copy(bias, bias + bias_count, bias_.begin());
  linear_.bias = bias_.data();
}

std::shared_ptr<Matrix> Matrix::packed(Kind kind, const float* weights, int outputs, int inputs, const float* bias,
                                       std::size_t bias_count) {
  check_sizes(outputs, inputs);
  auto matrix = std::make_shared<Matrix>();
  matrix->packed_ = pack(kind, weights, outputs, inputs);
  matrix->point(bias, bias_count);
  return matrix;
}

std::shared_ptr<Matrix> Matrix::stored(Kind kind, int outputs, int inputs, const std::uint8_t* panels,
                                       std::size_t bytes, const float* scales, std::size_t scale_count,
                                       const float* bias, std::size_t bias_count) {
  const auto check = [](std::size_t wanted, std::size_t came, const char* what) {
    if (wanted != came) {
      throw std::invalid_argument("expected " + std::to_string(wanted) + " " + what + ", got " + std::to_string(came));
    }
  };
  check_sizes(outputs, inputs);
  check(panel_bytes(kind, outputs, inputs), bytes, "bytes of packed weights");
  check(kind == Kind::f32 ? 0 : rounded_up(outputs, kPanel), scale_count, "scales");
  auto matrix = std::make_shared<Matrix>();
  Packed& packed = matrix->packed_;
  packed.kind = kind;
  packed.outputs = outputs;
  packed.inputs = inputs;
  packed.scales.assign(scales, scales + scale_count);
  for (const float scale : packed.scales) {
    if (!std::isfinite(scale)) throw std::invalid_argument("a scale of the packed weights is not a finite number");
  }
  if (kind == Kind::i8) packed.sums = byte_sums(reinterpret_cast<const std::int8_t*>(panels), outputs, inputs);
  matrix->linear_.panels = panels;
  matrix->point(bias, bias_count);
  return matrix;
}

std::shared_ptr<Matrix> Matrix::suited(std::shared_ptr<Matrix> matrix, ByteForm form) {
  return matrix->kind() == Kind::i8 && form == ByteForm::s16s16 ? matrix->widened() : std::move(matrix);
}

std::shared_ptr<Matrix> Matrix::widened() const {
  auto matrix = std::make_shared<Matrix>();
  matrix->packed_.kind = Kind::i8;
  matrix->packed_.outputs = linear_.outputs;
  matrix->packed_.inputs = linear_.inputs;
  matrix->packed_.panels =
      runoff::widened(static_cast<const std::int8_t*>(linear_.panels), linear_.outputs, linear_.inputs);
  matrix->packed_.scales = packed_.scales;
  matrix->point(bias_.empty() ? nullptr : bias_.data(), linear_.outputs);
  return matrix;
}

}  // namespace runoff
