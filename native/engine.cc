#include "engine.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "packing.h"
#include "unit.h"

namespace runoff {
namespace {

// Tokens of the sequences that one thread takes through all layers: few enough to stay in its caches, enough to
// reuse weights. 256 to 1,024 measured alike.
constexpr int kUnitTokens = 512;

void check(bool is_so, const std::string& what) {
  if (!is_so) throw std::invalid_argument(what);
}

void check_linear(const Linear& w, int outputs, int inputs, const std::string& name) {
  check(w.panels != nullptr, name + ": no weights");
  check(w.outputs == outputs && w.inputs == inputs,
        name + ": expected " + std::to_string(outputs) + " x " + std::to_string(inputs) + " weights, got " +
            std::to_string(w.outputs) + " x " + std::to_string(w.inputs));
}

void check_model(const Model& m) {
  check(m.vocabulary > 0 && m.hidden > 0 && m.heads > 0 && m.inner > 0 && !m.layers.empty(), "sizes must be positive");
  check(m.inner % kPanel == 0, "the inner size must be padded to a multiple of 16");
  check(m.head_size > 0 && m.head_size % kPanel == 0, "the head size must be padded to a multiple of 16");
  check(m.rotary_half % 8 == 0 && (m.rotary_half == 0 || 2 * m.rotary_half == m.head_size),
        "half of a rotary head must be a multiple of 8");
  check(m.rotary_size / 2 <= m.rotary_half || m.rotary_half == 0, "a rotary head must fit its padded size");
  check(!m.pooling.empty(), "no pooling");
  check(m.embed_norm.weight && m.token_table, "no embedding");
  check(m.is_prenorm ? m.final_norm.weight != nullptr : m.position_table && m.type_table, "no norm or tables");
  const int mixed = m.heads * m.head_size;
  for (std::size_t i = 0; i < m.layers.size(); ++i) {
    const Layer& layer = m.layers[i];
    const std::string name = "layer " + std::to_string(i) + " ";
    check_linear(layer.qkv, 3 * mixed, m.hidden, name + "qkv");
    check_linear(layer.attn_out, m.hidden, mixed, name + "attn_out");
    check_linear(layer.mlp_in, m.is_prenorm ? 2 * m.inner : m.inner, m.hidden, name + "mlp_in");
    check_linear(layer.mlp_out, m.hidden, m.inner, name + "mlp_out");
    check(layer.mlp_norm.weight && (layer.attn_norm.weight || (m.is_prenorm && i == 0)), name + "has no norm");
  }
  int size = m.hidden * static_cast<int>(m.pooling.size());
  for (const HeadStep& step : m.head) {
    if (step.form == HeadStep::Form::dense) {
      check_linear(step.dense, step.size, size, "a head step");
      if (step.residual.panels) check_linear(step.residual, step.size, size, "the residual of a head step");
      check(!step.adds_input || step.residual.panels || step.size == size, "the residual of a head step does not fit");
      size = step.size;
    } else {
      check(step.size == size, "a head step does not fit the one before it");
    }
  }
}

}  // namespace

int Model::output_size() const {
  return head.empty() ? hidden * static_cast<int>(pooling.size()) : head.back().size;
}

std::shared_ptr<const Angles::Table> Angles::up_to(int positions) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (table_ && table_->positions >= positions) return table_;
  auto table = std::make_shared<Table>();
  table->positions = 64;
  while (table->positions < positions) table->positions *= 2;
  const std::size_t count = static_cast<std::size_t>(table->positions) * half_;
  table->cosines.assign(count, 1.0f);
  table->sines.assign(count, 0.0f);
  const int half = size_ / 2;
  std::vector<float> frequencies(half);
  for (int j = 0; j < half; ++j) {
    frequencies[j] = 1.0f / std::pow(theta_, static_cast<float>(j) / static_cast<float>(half));
  }
  for (int position = 0; position < table->positions; ++position) {
    for (int j = 0; j < half; ++j) {
      const float angle = static_cast<float>(position) * frequencies[j];
      table->cosines[static_cast<std::size_t>(position) * half_ + j] = std::cos(angle);
      table->sines[static_cast<std::size_t>(position) * half_ + j] = std::sin(angle);
    }
  }
  table_ = std::move(table);
  return table_;
}

Job::Job(Pool& pool, std::shared_ptr<Loop> loop) : pool_(pool), loop_(std::move(loop)), process_(getpid()) {}

Job::~Job() {
  if (process_ != getpid()) return;  // after a fork: the threads that work on it are the parent's
  loop_->cancel();
  while (!pool_.wait(*loop_, 1.0)) {
  }
}

bool Job::wait(double seconds) {
  if (process_ != getpid()) throw std::runtime_error("a forward that was begun before a fork ends in the parent alone");
  if (!pool_.wait(*loop_, seconds)) return false;
  Pool::raise_error(*loop_);
  return true;
}

Engine::Engine(Model model, const Kernels& kernels, int threads)
    : model_(std::move(model)),
      kernels_(kernels),
      threads_(std::max(1, threads)),
      global_angles_(model_.global_theta, model_.rotary_size, model_.rotary_half),
      local_angles_(model_.local_theta, model_.rotary_size, model_.rotary_half) {
  check_model(model_);
}

Engine::~Engine() {
  if (pool_ && pool_process_ != getpid()) pool_.release();
}

Pool& Engine::pool() {
  const std::lock_guard<std::mutex> lock(pool_mutex_);
  const long process = getpid();
  if (!pool_ || pool_process_ != process) {
    pool_.release();  // after a fork: its threads are not here, and its locks may be held for ever
    pool_ = std::make_unique<Pool>(threads_);
    pool_process_ = process;
  }
  return *pool_;
}

namespace {

void check_batch(const Model& m, const PackedBatch& batch) {
  check(batch.offsets[0] == 0, "offsets must start at 0");
  for (int i = 0; i < batch.count; ++i) {
    check(batch.offsets[i + 1] > batch.offsets[i], "sequence " + std::to_string(i) + " has no tokens");
  }
  const auto in_table = [](int value, int rows, int token, const char* what) {
    if (value < 0 || value >= rows) {
      throw std::out_of_range("token " + std::to_string(token) + ": " + what + " " + std::to_string(value) +
                              " is outside the model's " + std::to_string(rows));
    }
  };
  const int tokens = batch.offsets[batch.count];
  for (int t = 0; t < tokens; ++t) {
    in_table(batch.ids[t], m.vocabulary, t, "id");
    if (!m.is_prenorm) {
      in_table(batch.positions[t], m.position_rows, t, "position");
      in_table(batch.type_ids[t], m.type_rows, t, "segment");
    }
  }
}

}  // namespace

std::unique_ptr<Job> Engine::start(const PackedBatch& batch, float* out) {
  check_batch(model_, batch);
  // Sequences in the order given, as many to a unit as fit.
  auto bounds = std::make_shared<std::vector<int>>(1, 0);
  int longest = 0;
  for (int i = 0; i < batch.count; ++i) {
    longest = std::max(longest, batch.offsets[i + 1] - batch.offsets[i]);
    if (i > bounds->back() && batch.offsets[i + 1] - batch.offsets[bounds->back()] > kUnitTokens) bounds->push_back(i);
  }
  bounds->push_back(batch.count);
  std::shared_ptr<const Angles::Table> global, local;
  if (model_.rotary_half > 0) {
    global = global_angles_.up_to(longest);
    local = local_angles_.up_to(longest);
  }
  Pool& threads = pool();
  // The loop's task needs the loop itself, to see whether it was cancelled.
  auto self = std::make_shared<std::weak_ptr<Loop>>();
  auto loop = std::make_shared<Loop>(static_cast<int>(bounds->size()) - 1, [=, &threads](int unit) {
    const std::shared_ptr<Loop> whole = self->lock();
    const int first = (*bounds)[unit], last = (*bounds)[unit + 1];
    Unit(*this, threads, *whole, batch, first, last, global.get(), local.get()).run(out);
  });
  *self = loop;
  threads.start(loop);
  return std::make_unique<Job>(threads, std::move(loop));
}

}  // namespace runoff
