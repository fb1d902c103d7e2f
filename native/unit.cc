#include "unit.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "packing.h"

namespace runoff {
namespace {

// Rows of a block that goes from one product to the next while it is in cache.
constexpr int kBlockRows = 96;
// Queries of one attention task where a long sequence is divided between threads.
constexpr int kTaskQueries = 20 * kQueries;
// Memory that a thread keeps for its next unit; beyond it belongs to one long sequence.
constexpr std::size_t kKeptBytes = std::size_t{32} << 20;

// What a thread needs for the unit it owns, and for the tasks it does for itself and others.
struct Memory {
  Buffer x, qkv, context, cls_query;
  Buffer normed, rows, units, inner, attention;
};
thread_local Memory memory;

float from_half(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3ffu;
  float value;
  if (exponent == 0) {
    value = std::ldexp(static_cast<float>(fraction), -24);
    return sign ? -value : value;
  }
  const std::uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
  std::memcpy(&value, &bits, 4);
  return value;
}

void read_row(const Model& m, int id, float* out) {
  const std::size_t at = static_cast<std::size_t>(id) * m.hidden;
  if (m.table_type == TableType::f32) {
    std::memcpy(out, static_cast<const float*>(m.token_table) + at, m.hidden * sizeof(float));
    return;
  }
  const auto* row = static_cast<const std::uint16_t*>(m.token_table) + at;
  if (m.table_type == TableType::bf16) {
    for (int i = 0; i < m.hidden; ++i) {
      const std::uint32_t bits = static_cast<std::uint32_t>(row[i]) << 16;
      std::memcpy(out + i, &bits, 4);
    }
  } else {
    for (int i = 0; i < m.hidden; ++i) out[i] = from_half(row[i]);
  }
}

}  // namespace

Buffer::~Buffer() { std::free(data_); }

float* Buffer::floats(std::size_t count) {
  const std::size_t wanted = (count * sizeof(float) + 63) / 64 * 64;
  if (wanted > bytes_) {
    std::free(data_);
    bytes_ = 0;
    data_ = std::aligned_alloc(64, wanted);
    if (!data_) throw std::bad_alloc();
    bytes_ = wanted;
  }
  return static_cast<float*>(data_);
}

void Buffer::shrink(std::size_t bytes) {
  if (bytes_ <= bytes) return;
  std::free(data_);
  data_ = nullptr;
  bytes_ = 0;
}

Unit::Unit(Engine& engine, Pool& pool, const Loop& whole, const PackedBatch& batch, int first, int last,
           const Angles::Table* global, const Angles::Table* local)
    : m_(engine.model_),
      k_(engine.kernels_),
      pool_(pool),
      whole_(whole),
      batch_(batch),
      first_(first),
      count_(last - first),
      token_(batch.offsets[first]),
      tokens_(batch.offsets[last] - batch.offsets[first]),
      global_(global),
      local_(local),
      width_(rounded_up(engine.model_.hidden, kPanel)),
      mixed_(engine.model_.heads * engine.model_.head_size) {
  places_.resize(tokens_);
  for (int i = first; i < last; ++i) {
    for (int t = batch.offsets[i]; t < batch.offsets[i + 1]; ++t) places_[t - token_] = t - batch.offsets[i];
  }
  const std::size_t rows = tokens_;
  x_ = memory.x.floats(rows * width_);
  qkv_ = memory.qkv.floats(rows * 3 * mixed_);
  context_ = memory.context.floats(rows * mixed_);
  cls_query_ = memory.cls_query.floats(static_cast<std::size_t>(count_) * mixed_);
}

bool Unit::is_cls_layer(int layer) const {
  return layer + 1 == static_cast<int>(m_.layers.size()) && m_.needs_only_cls();
}

// Runs `block` on [first, last) of `rows`: in blocks of kBlockRows, or finer ones where threads are idle.
void Unit::in_blocks(int rows, const std::function<void(int, int)>& block) {
  int size = kBlockRows;
  if (const int idle = pool_.idle(); idle > 0) {
    const int share = (rows + idle) / (idle + 1);
    size = std::min(size, rounded_up(std::max(share, 1), k_.tile_rows));
  }
  const int blocks = (rows + size - 1) / size;
  pool_.run(blocks, [&](int i) {
    stop_if_cancelled();
    block(i * size, std::min(rows, (i + 1) * size));
  });
}

void Unit::product(const Linear& w, const float* x, std::ptrdiff_t stride, int rows, const Epilogue& epilogue) {
  Rows a;
  if (w.kind == Kind::f32) {
    a.data = x;
    a.stride = stride * static_cast<std::ptrdiff_t>(sizeof(float));
  } else {
    const std::size_t bytes = row_bytes(w.kind, k_.byte_form, w.inputs);
    float* data = memory.rows.floats(bytes / 4 * rows);
    static_assert(sizeof(RowUnit) == 2 * sizeof(float));
    auto* units = reinterpret_cast<RowUnit*>(memory.units.floats(std::size_t{2} * rows));
    k_.quantise(w.kind, x, stride, rows, w.inputs, data, static_cast<std::ptrdiff_t>(bytes), units);
    a.data = data;
    a.stride = static_cast<std::ptrdiff_t>(bytes);
    a.units = units;
  }
  k_.linear(w, a, rows, epilogue);
}

void Unit::normalise(const Norm& norm, const float* x, int rows, float* y) const {
  k_.norm(x, width_, rows, m_.hidden, norm.weight, norm.bias, m_.eps, y, width_);
}

void Unit::embed(int first, int last) {
  for (int t = first; t < last; ++t) {
    float* row = x_ + static_cast<std::size_t>(t) * width_;
    read_row(m_, batch_.ids[token_ + t], row);
    if (!m_.is_prenorm) {
      const auto table_row = [&](const float* table, int i) { return table + static_cast<std::size_t>(i) * m_.hidden; };
      k_.accumulate(row, table_row(m_.position_table, batch_.positions[token_ + t]), 1.0f, m_.hidden);
      k_.accumulate(row, table_row(m_.type_table, batch_.type_ids[token_ + t]), 1.0f, m_.hidden);
    }
  }
  float* rows = x_ + static_cast<std::size_t>(first) * width_;
  normalise(m_.embed_norm, rows, last - first, rows);
}

// Queries, keys and values of rows [first, last); of a cls layer first keys and values of all tokens, then, with
// `is_cls`, the queries of the first ones.
void Unit::begin_layer(int layer, int first, int last, bool is_cls) {
  const Layer& l = m_.layers[layer];
  const int rows = last - first;
  const float* input = x_ + static_cast<std::size_t>(first) * width_;
  if (m_.is_prenorm && l.attn_norm.weight) {
    float* normed = memory.normed.floats(static_cast<std::size_t>(rows) * width_);
    normalise(l.attn_norm, input, rows, normed);
    input = normed;
  }
  Epilogue e;
  const int third = mixed_ / kPanel;
  e.first_panel = is_cls_layer(layer) && !is_cls ? third : 0;
  e.last_panel = is_cls ? third : 3 * third;
  e.out = is_cls ? cls_query_ + static_cast<std::size_t>(first) * mixed_
                 : qkv_ + static_cast<std::size_t>(first) * 3 * mixed_;
  e.stride = is_cls ? mixed_ : 3 * mixed_;
  // A first token has position 0, whose rotation changes nothing.
  if (m_.rotary_half > 0 && !is_cls) {
    const Angles::Table& angles = l.is_local ? *local_ : *global_;
    e.form = Epilogue::Form::rotate;
    e.rotated = 2 * mixed_;
    e.half = m_.rotary_half;
    e.positions = places_.data() + first;
    e.cosines = angles.cosines.data();
    e.sines = angles.sines.data();
  }
  product(l.qkv, input, width_, rows, e);
}

void Unit::attend(int layer) {
  const int window = m_.layers[layer].is_local ? m_.window : -1;
  struct Task {
    int sequence, first, last;
  };
  std::vector<Task> tasks;
  for (int i = 0; i < count_; ++i) {
    const int length = batch_.offsets[first_ + i + 1] - batch_.offsets[first_ + i];
    for (int query = 0; query < length; query += kTaskQueries) {
      tasks.push_back({i, query, std::min(length, query + kTaskQueries)});
    }
  }
  pool_.run(static_cast<int>(tasks.size()) * m_.heads, [&](int number) {
    stop_if_cancelled();
    const Task& task = tasks[number / m_.heads];
    const int start = batch_.offsets[first_ + task.sequence] - token_;
    Attention a;
    a.length = batch_.offsets[first_ + task.sequence + 1] - token_ - start;
    a.head_size = m_.head_size;
    a.stride = 3 * mixed_;
    a.query = qkv_ + static_cast<std::size_t>(start) * a.stride + number % m_.heads * m_.head_size;
    a.key = a.query + mixed_;
    a.value = a.key + mixed_;
    a.out = context_ + static_cast<std::size_t>(start) * mixed_ + number % m_.heads * m_.head_size;
    a.out_stride = mixed_;
    a.first = task.first;
    a.last = task.last;
    a.window = window;
    a.scratch = memory.attention.floats(attention_scratch(a.length, window, task.last - task.first, m_.head_size));
    k_.attend(a);
  });
}

// The last layer of a model that pools the first token: one query for each sequence.
void Unit::attend_cls(int layer) {
  for (int i = 0; i < count_; ++i) {
    const std::size_t start = batch_.offsets[first_ + i] - token_;
    std::memmove(x_ + static_cast<std::size_t>(i) * width_, x_ + start * width_, width_ * sizeof(float));
  }
  in_blocks(count_, [&](int first, int last) { begin_layer(layer, first, last, true); });
  pool_.run(count_, [&](int i) {
    const int start = batch_.offsets[first_ + i] - token_;
    Attention a;
    a.length = batch_.offsets[first_ + i + 1] - token_ - start;
    a.head_size = m_.head_size;
    a.stride = 3 * mixed_;
    a.window = m_.layers[layer].is_local ? m_.window : -1;
    a.scratch = memory.attention.floats(static_cast<std::size_t>(rounded_up(a.length, kPanel)));
    for (int head = 0; head < m_.heads; ++head) {
      a.query = cls_query_ + static_cast<std::size_t>(i) * mixed_ + head * m_.head_size;
      a.key = qkv_ + static_cast<std::size_t>(start) * a.stride + mixed_ + head * m_.head_size;
      a.value = a.key + mixed_;
      a.out = context_ + static_cast<std::size_t>(i) * mixed_ + head * m_.head_size;
      k_.attend_one(a);
    }
  });
}

// Everything after attention for rows [first, last): its output matrix, the MLP, both residuals and norms.
void Unit::finish_layer(int layer, int first, int last) {
  const Layer& l = m_.layers[layer];
  const int rows = last - first;
  float* x = x_ + static_cast<std::size_t>(first) * width_;
  Epilogue add;
  add.form = Epilogue::Form::add;
  add.out = x;
  add.stride = width_;
  add.last_panel = width_ / kPanel;
  product(l.attn_out, context_ + static_cast<std::size_t>(first) * mixed_, mixed_, rows, add);
  const float* input = x;
  if (m_.is_prenorm) {
    float* normed = memory.normed.floats(static_cast<std::size_t>(rows) * width_);
    normalise(l.mlp_norm, x, rows, normed);
    input = normed;
  } else {
    normalise(l.attn_norm, x, rows, x);
  }
  float* inner = memory.inner.floats(static_cast<std::size_t>(rows) * m_.inner);
  Epilogue act;
  act.form = m_.is_prenorm ? Epilogue::Form::glu : Epilogue::Form::act;
  act.activation = m_.activation;
  act.out = inner;
  act.stride = m_.inner;
  act.last_panel = (m_.is_prenorm ? 2 : 1) * m_.inner / kPanel;
  product(l.mlp_in, input, width_, rows, act);
  product(l.mlp_out, inner, m_.inner, rows, add);
  if (!m_.is_prenorm) normalise(l.mlp_norm, x, rows, x);
}

void Unit::run(float* out) {
  const int layers = static_cast<int>(m_.layers.size());
  in_blocks(tokens_, [&](int first, int last) {
    embed(first, last);
    begin_layer(0, first, last, false);
  });
  for (int layer = 0; layer < layers; ++layer) {
    const bool is_cls = is_cls_layer(layer);
    if (is_cls) {
      attend_cls(layer);
    } else {
      attend(layer);
    }
    in_blocks(is_cls ? count_ : tokens_, [&](int first, int last) {
      finish_layer(layer, first, last);
      if (layer + 1 < layers) {
        begin_layer(layer + 1, first, last, false);
      } else if (m_.final_norm.weight) {
        float* rows = x_ + static_cast<std::size_t>(first) * width_;
        normalise(m_.final_norm, rows, last - first, rows);
      }
    });
  }
  pool_and_score(out);
  for (Buffer* buffer : {&memory.x, &memory.qkv, &memory.context, &memory.attention}) buffer->shrink(kKeptBytes);
}

namespace {

// One sequence's vectors [length][hidden], `stride` apart -> one vector.
void pool_rows(const Kernels& k, Pooling how, const float* rows, std::ptrdiff_t stride, int length, int size, float* out) {
  if (how == Pooling::cls || how == Pooling::last) {
    std::memcpy(out, rows + (how == Pooling::last ? (length - 1) * stride : 0), size * sizeof(float));
    return;
  }
  if (how == Pooling::max) {
    std::memcpy(out, rows, size * sizeof(float));
    for (int t = 1; t < length; ++t) {
      for (int i = 0; i < size; ++i) out[i] = std::max(out[i], rows[t * stride + i]);
    }
    return;
  }
  double total = length;
  if (how == Pooling::mean_sqrt) total = std::sqrt(total);
  if (how == Pooling::weighted_mean) total = total * (total + 1) / 2;
  std::fill(out, out + size, 0.0f);
  for (int t = 0; t < length; ++t) {
    k.accumulate(out, rows + t * stride, how == Pooling::weighted_mean ? static_cast<float>(t + 1) : 1.0f, size);
  }
  for (int i = 0; i < size; ++i) out[i] = static_cast<float>(out[i] / total);
}

}  // namespace

void Unit::pool_and_score(float* out) {
  int size = m_.hidden * static_cast<int>(m_.pooling.size());
  int stride = rounded_up(size, kPanel);
  std::vector<float> now(static_cast<std::size_t>(count_) * stride), next;
  for (int i = 0; i < count_; ++i) {
    const int start = batch_.offsets[first_ + i] - token_;
    const int length = batch_.offsets[first_ + i + 1] - token_ - start;
    float* to = now.data() + static_cast<std::size_t>(i) * stride;
    if (m_.needs_only_cls()) {
      std::memcpy(to, x_ + static_cast<std::size_t>(i) * width_, size * sizeof(float));
      continue;
    }
    for (std::size_t part = 0; part < m_.pooling.size(); ++part) {
      pool_rows(k_, m_.pooling[part], x_ + static_cast<std::size_t>(start) * width_, width_, length, m_.hidden,
                to + part * m_.hidden);
    }
  }
  for (const HeadStep& step : m_.head) {
    if (step.form == HeadStep::Form::norm) {
      k_.norm(now.data(), stride, count_, size, step.norm.weight, step.norm.bias, step.eps, now.data(), stride);
    } else if (step.form == HeadStep::Form::normalize) {
      for (int i = 0; i < count_; ++i) {
        float* row = now.data() + static_cast<std::size_t>(i) * stride;
        double squares = 0.0;
        for (int j = 0; j < size; ++j) squares += static_cast<double>(row[j]) * row[j];
        // torch.nn.functional.normalize divides by at least 1e-12
        const double length = std::max(std::sqrt(squares), 1e-12);
        for (int j = 0; j < size; ++j) row[j] = static_cast<float>(row[j] / length);
      }
    } else {
      const int next_stride = rounded_up(step.size, kPanel);
      next.assign(static_cast<std::size_t>(count_) * next_stride, 0.0f);
      Epilogue e;
      e.form = Epilogue::Form::act;
      e.activation = step.activation;
      e.out = next.data();
      e.stride = next_stride;
      e.last_panel = next_stride / kPanel;
      product(step.dense, now.data(), stride, count_, e);
      if (step.adds_input && step.residual.panels) {
        e.form = Epilogue::Form::add;
        product(step.residual, now.data(), stride, count_, e);
      } else if (step.adds_input) {
        for (int i = 0; i < count_; ++i) {
          const std::size_t row = static_cast<std::size_t>(i) * stride;
          k_.accumulate(next.data() + row, now.data() + row, 1.0f, size);
        }
      }
      now.swap(next);
      size = step.size;
      stride = next_stride;
    }
  }
  for (int i = 0; i < count_; ++i) {
    std::memcpy(out + static_cast<std::size_t>(first_ + i) * size, now.data() + static_cast<std::size_t>(i) * stride,
                size * sizeof(float));
  }
}

}  // namespace runoff
