// Some sequences of a batch on their way through all layers, owned by one thread; idle threads may help.
#pragma once

#include "engine.h"

namespace runoff {

// Thrown inside a unit whose batch was given up.
struct Cancelled {};

// Memory for rows that a product reads or writes, 64-byte aligned, kept from call to call.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer();
  Buffer(const Buffer&) = delete;
  float* floats(std::size_t count);
  // Gives back what a rare long sequence needed.
  void shrink(std::size_t bytes);

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

class Unit {
 public:
  Unit(Engine& engine, Pool& pool, const Loop& whole, const PackedBatch& batch, int first, int last,
       const Angles::Table* global, const Angles::Table* local);
  // Fills rows first..last of `out`.
  void run(float* out);

 private:
  // Rows of `x` that a stage works on: all tokens, or one row for each sequence.
  void embed(int first, int last);
  void attend(int layer);
  void attend_cls(int layer);
  void finish_layer(int layer, int first, int last);
  void begin_layer(int layer, int first, int last, bool is_cls);
  void pool_and_score(float* out);
  void in_blocks(int rows, const std::function<void(int, int)>& block);
  void product(const Linear& w, const float* x, std::ptrdiff_t stride, int rows, const Epilogue& epilogue);
  void normalise(const Norm& norm, const float* x, int rows, float* y) const;
  bool is_cls_layer(int layer) const;
  void stop_if_cancelled() const {
    if (whole_.is_cancelled()) throw Cancelled();
  }

  const Model& m_;
  const Kernels& k_;
  Pool& pool_;
  const Loop& whole_;
  const PackedBatch& batch_;
  const int first_, count_, token_, tokens_;  // sequences and tokens of the batch that are ours
  const Angles::Table* const global_;
  const Angles::Table* const local_;
  const int width_;  // of a row of x: hidden, padded to 16
  const int mixed_;  // heads * head_size
  std::vector<std::int32_t> places_;  // position of each token in its sequence
  float* x_ = nullptr;      // [tokens][width]; of a cls layer [count][width]
  float* qkv_ = nullptr;    // [tokens][3 mixed]
  float* context_ = nullptr;  // [tokens][mixed]
  float* cls_query_ = nullptr;  // [count][mixed]
};

}  // namespace runoff
