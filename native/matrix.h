// A packed weight matrix that owns its memory, or keeps the owner of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "packing.h"

namespace runoff {

Kind kind_of(const std::string& name);  // "f32", "i16" or "i8"; else std::invalid_argument
std::string kind_name(Kind kind);

// The kernels of that name ("": the best); std::invalid_argument where this processor cannot run them.
const Kernels& checked_kernels(const std::string& isa);

class Matrix {
 public:
  static std::shared_ptr<Matrix> packed(Kind kind, const float* weights, int outputs, int inputs, const float* bias,
                                        std::size_t bias_count);
  // Over panels that were packed before; they are not copied. std::invalid_argument for sizes that do not fit.
  static std::shared_ptr<Matrix> stored(Kind kind, int outputs, int inputs, const std::uint8_t* panels,
                                        std::size_t bytes, const float* scales, std::size_t scale_count,
                                        const float* bias, std::size_t bias_count);
  // As kernels of this form read it: int8 as the same integers in int16 for those that multiply no bytes.
  static std::shared_ptr<Matrix> suited(std::shared_ptr<Matrix> matrix, ByteForm form);

  Kind kind() const { return linear_.kind; }
  const Linear& linear() const { return linear_; }
  std::size_t size() const { return panel_bytes(linear_.kind, linear_.outputs, linear_.inputs); }
  std::size_t scale_count() const { return packed_.scales.size(); }
  void keep(std::shared_ptr<void> owner) { owner_ = std::move(owner); }

 private:
  std::shared_ptr<Matrix> widened() const;
  void point(const float* bias, std::size_t bias_count);

  Packed packed_;
  std::vector<float> bias_;
  std::shared_ptr<void> owner_;
  Linear linear_;
};

}  // namespace runoff
