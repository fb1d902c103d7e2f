// The packed forward of an encoder, its pooling and its head, over the kernels of one instruction set.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace runoff {

enum class Pooling : int { cls = 0, max = 1, mean = 2, mean_sqrt = 3, weighted_mean = 4, last = 5 };

enum class TableType : int { f32 = 0, bf16 = 1, f16 = 2 };

struct Norm {
  const float* weight = nullptr;  // null: there is no norm here
  const float* bias = nullptr;
};

struct Layer {
  Linear qkv;       // outputs: queries, keys, values, each [heads][head_size]
  Linear attn_out;
  Linear mlp_in;    // of a gated layer: panels alternate, 16 values and their 16 gates
  Linear mlp_out;
  Norm attn_norm, mlp_norm;
  bool is_local = false;
};

struct HeadStep {
  enum class Form : int { dense = 0, norm = 1, normalize = 2 };
  Form form = Form::dense;
  Linear dense;
  Activation activation = Activation::identity;
  bool adds_input = false;
  Linear residual;  // panels null: the input itself is added
  Norm norm;
  float eps = 0.0f;
  int size = 0;  // of its output
};

struct Model {
  bool is_prenorm = false;  // ModernBERT: norms before, gated MLP, rotary positions; else BERT
  int vocabulary = 0, hidden = 0, heads = 0, inner = 0;
  int head_size = 0;   // padded: a multiple of 16
  int rotary_half = 0;  // padded half of a head, a multiple of 8; 0 without rotary positions
  int rotary_size = 0;  // the model's own head size, which gives the frequencies
  float global_theta = 0.0f, local_theta = 0.0f;
  int window = -1;
  float eps = 0.0f;
  Activation activation = Activation::gelu;

  const void* token_table = nullptr;
  TableType table_type = TableType::f32;
  const float* position_table = nullptr;
  int position_rows = 0;
  const float* type_table = nullptr;
  int type_rows = 0;
  Norm embed_norm, final_norm;
  std::vector<Layer> layers;
  std::vector<Pooling> pooling;
  std::vector<HeadStep> head;

  bool needs_only_cls() const { return pooling.size() == 1 && pooling[0] == Pooling::cls; }
  int output_size() const;
};

// Sequences packed end to end. `positions` are rows of the position table (BERT) and may be null otherwise.
struct PackedBatch {
  const std::int32_t* ids = nullptr;
  const std::int32_t* type_ids = nullptr;
  const std::int32_t* positions = nullptr;
  const std::int32_t* offsets = nullptr;  // [count + 1]
  int count = 0;
};

// cos and sin of position * theta^(-2j/d), [position][half]; grows when a longer sequence comes.
class Angles {
 public:
  struct Table {
    int positions = 0;
    std::vector<float> cosines, sines;
  };
  Angles(float theta, int size, int padded_half) : theta_(theta), size_(size), half_(padded_half) {}
  std::shared_ptr<const Table> up_to(int positions);

 private:
  const float theta_;
  const int size_, half_;
  std::mutex mutex_;
  std::shared_ptr<const Table> table_;
};

// A forward under way. The arrays it was given must live until `wait` says it has ended.
class Job {
 public:
  Job(Pool& pool, std::shared_ptr<Loop> loop);
  ~Job();
  // Waits at most `seconds`; whether it has ended. Raises what went wrong.
  bool wait(double seconds);
  void cancel() { loop_->cancel(); }

 private:
  Pool& pool_;
  std::shared_ptr<Loop> loop_;
  const long process_;  // that began it
};

class Engine {
 public:
  // Raises std::invalid_argument for parts that do not fit together.
  Engine(Model model, const Kernels& kernels, int threads);
  ~Engine();
  Engine(const Engine&) = delete;

  // Begins to fill `out` [count][output_size]. Raises std::out_of_range for ids outside their tables.
  std::unique_ptr<Job> start(const PackedBatch& batch, float* out);

  const Model& model() const { return model_; }
  int threads() const { return threads_; }

 private:
  friend class Unit;
  Pool& pool();

  const Model model_;
  const Kernels& kernels_;
  const int threads_;
  Angles global_angles_, local_angles_;
  std::mutex pool_mutex_;
  std::unique_ptr<Pool> pool_;
  long pool_process_ = 0;
};

}  // namespace runoff
