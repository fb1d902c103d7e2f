// A model of two small layers with drawn weights, for the test program: BERT's or ModernBERT's, scores by two labels.
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "engine.h"
#include "matrix.h"

namespace runoff {

class SmallModel {
 public:
  SmallModel(const Kernels& kernels, Kind kind, bool is_prenorm, int threads) : byte_form_(kernels.byte_form) {
    Model m;
    m.is_prenorm = is_prenorm;
    m.vocabulary = kVocabulary;
    m.hidden = kHidden;
    m.heads = 2;
    m.inner = 48;
    m.head_size = 16;
    m.rotary_half = is_prenorm ? 8 : 0;
    m.rotary_size = is_prenorm ? 16 : 0;
    m.global_theta = 160000.0f;
    m.local_theta = 10000.0f;
    m.window = 8;
    m.eps = 1e-5f;
    m.token_table = drawn(kVocabulary * kHidden, 1.0f);
    m.position_table = drawn(kPositions * kHidden, 0.3f);
    m.position_rows = kPositions;
    m.type_table = drawn(2 * kHidden, 0.3f);
    m.type_rows = 2;
    m.embed_norm = norm();
    if (is_prenorm) m.final_norm = norm();
    for (int i = 0; i < 2; ++i) {
      Layer layer;
      layer.qkv = linear(3 * kHidden, kHidden, kind);
      layer.attn_out = linear(kHidden, kHidden, kind);
      layer.mlp_in = linear(is_prenorm ? 96 : 48, kHidden, kind);
      layer.mlp_out = linear(kHidden, 48, kind);
      layer.attn_norm = norm();
      layer.mlp_norm = norm();
      layer.is_local = is_prenorm && i == 1;
      m.layers.push_back(layer);
    }
    m.pooling = {Pooling::mean, Pooling::cls};
    HeadStep step;
    step.dense = linear(2, 2 * kHidden, Kind::f32);
    step.size = 2;
    m.head = {step};
    engine_ = std::make_unique<Engine>(std::move(m), kernels, threads);
  }

  // Two scores for each sequence. Sequence i of a batch has the same tokens whatever is beside it; `first` is its i.
  std::vector<float> score(const std::vector<int>& lengths, int first = 0) {
    std::vector<std::int32_t> ids, types, positions, offsets(1, 0);
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      for (int t = 0; t < lengths[i]; ++t) {
        ids.push_back(static_cast<std::int32_t>((t * 7 + (first + i) * 13 + t * t) % kVocabulary));
        types.push_back(t * 2 >= lengths[i]);
        positions.push_back(t);
      }
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
    }
    PackedBatch batch;
    batch.ids = ids.data();
    batch.type_ids = types.data();
    batch.positions = positions.data();
    batch.offsets = offsets.data();
    batch.count = static_cast<int>(lengths.size());
    std::vector<float> out(lengths.size() * 2);
    const auto job = engine_->start(batch, out.data());
    while (!job->wait(1.0)) {
    }
    return out;
  }

 private:
  static constexpr int kVocabulary = 40, kHidden = 32, kPositions = 700;

  float* drawn(int count, float size, float centre = 0.0f) {
    kept_.emplace_back(count);
    for (float& value : kept_.back()) {
      value = centre + size * static_cast<float>(static_cast<double>(bits_()) / 2147483648.0 - 1.0);
    }
    return kept_.back().data();
  }

  Norm norm() {
    Norm norm;
    norm.weight = drawn(kHidden, 0.3f, 1.0f);
    norm.bias = drawn(kHidden, 0.2f);
    return norm;
  }

  Linear linear(int outputs, int inputs, Kind kind) {
    const float size = 1.7f / std::sqrt(static_cast<float>(inputs));
    const float* weights = drawn(outputs * inputs, size);
    const float* bias = drawn(outputs, 0.2f);
    const auto matrix = Matrix::suited(Matrix::packed(kind, weights, outputs, inputs, bias, outputs), byte_form_);
    matrices_.push_back(matrix);
    return matrix->linear();
  }

  const ByteForm byte_form_;
  std::mt19937 bits_{5};
  std::vector<std::vector<float>> kept_;
  std::vector<std::shared_ptr<Matrix>> matrices_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace runoff
