// Every kernel that this processor can run, against plain loops in double; and one small model, with one thread and
// with three. Needs no Python, so it runs where there is only an emulator. Prints a line for each kernel; exit 1 on
// the first that is off. tests/native has the thorough tests.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "cpu.h"
#include "engine.h"
#include "matrix.h"

namespace {

using namespace runoff;
using Floats = std::vector<float>;

int checks = 0;

Floats draw(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Floats values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

void expect(bool is_so, const std::string& isa, const std::string& what, double found, double wanted) {
  ++checks;
  if (is_so) return;
  std::printf("%s: %s: expected %.9g, found %.9g\n", isa.c_str(), what.c_str(), wanted, found);
  std::exit(1);
}

// --- products -----------------------------------------------------------------------------------------------

// Half a unit in every number of both operands (Cauchy and Schwarz), or K + 2 roundings of fp32.
double allowed(Kind kind, const float* x, const float* w, int inputs) {
  double x_squares = 0, w_squares = 0, x_peak = 0, w_pair = 0, magnitudes = 0;
  for (int k = 0; k < inputs; ++k) {
    x_squares += double(x[k]) * x[k];
    w_squares += double(w[k]) * w[k];
    x_peak = std::max(x_peak, std::fabs(double(x[k])));
    if (k % 2 == 0) w_pair = std::max(w_pair, std::fabs(double(w[k])) + (k + 1 < inputs ? std::fabs(double(w[k + 1])) : 0));
    magnitudes += std::fabs(double(x[k]) * w[k]);
  }
  const double eps = 1.2e-7;
  if (kind == Kind::f32) return (inputs + 3) * eps * magnitudes + 1e-30;
  const double half = 0.5 * std::sqrt(double(inputs)), x_norm = std::sqrt(x_squares), w_norm = std::sqrt(w_squares);
  const bool is_i16 = kind == Kind::i16;
  const double x_unit = is_i16 ? std::max(x_norm / (65500 - half), x_peak / 32767) : x_peak / 127;
  const double w_unit = is_i16 ? w_norm / (32700 - half) : w_pair / 127;
  return 1.001 * (half * (x_unit * w_norm + w_unit * x_norm) + inputs / 4.0 * x_unit * w_unit) + 5 * eps * magnitudes + 1e-30;
}

void test_products(const Kernels& k, Kind kind) {
  for (const auto& [outputs, inputs] : {std::pair{1, 1}, {17, 3}, {64, 64}, {130, 257}, {32, 1152}}) {
    const Floats w = draw(std::size_t(outputs) * inputs, 1), bias = draw(outputs, 2);
    auto matrix = Matrix::packed(kind, w.data(), outputs, inputs, bias.data(), bias.size());
    if (kind == Kind::i8 && k.byte_form == ByteForm::s16s16) matrix = matrix->widened();
    const int width = rounded_up(outputs, kPanel);
    for (const int rows : {1, 5, 6, 7, 13}) {
      const Floats x = draw(std::size_t(rows) * inputs, 3);
      const std::size_t bytes = row_bytes(kind, k.byte_form, inputs);
      std::vector<char> data(bytes * rows);
      Floats scales(rows), out(std::size_t(rows) * width);
      k.quantise(kind, x.data(), inputs, rows, inputs, data.data(), std::ptrdiff_t(bytes), scales.data());
      Rows a;
      a.data = data.data();
      a.stride = std::ptrdiff_t(bytes);
      a.scales = scales.data();
      Epilogue e;
      e.out = out.data();
      e.stride = width;
      e.last_panel = width / kPanel;
      k.linear(matrix->linear(), a, rows, e);
      for (int r = 0; r < rows; ++r) {
        for (int n = 0; n < outputs; ++n) {
          const float* xr = x.data() + std::size_t(r) * inputs;
          const float* wn = w.data() + std::size_t(n) * inputs;
          double wanted = bias[n];
          for (int i = 0; i < inputs; ++i) wanted += double(xr[i]) * wn[i];
          const double found = out[std::size_t(r) * width + n];
          const double tolerance = allowed(kind, xr, wn, inputs) + 2.4e-7 * (std::fabs(wanted) + std::fabs(bias[n]));
          expect(std::fabs(found - wanted) <= tolerance, k.name, "product of kind " + kind_name(kind), found, wanted);
        }
      }
    }
  }
}

// --- rows and attention ---------------------------------------------------------------------------------------

void test_norm(const Kernels& k) {
  for (const int columns : {1, 7, 64, 259}) {
    const Floats x = draw(columns, 4), weight = draw(columns, 5), bias = draw(columns, 6);
    Floats y(columns);
    k.norm(x.data(), columns, 1, columns, weight.data(), bias.data(), 1e-5f, y.data(), columns);
    double mean = 0, variance = 0;
    for (const float value : x) mean += value / double(columns);
    for (const float value : x) variance += (value - mean) * (value - mean) / columns;
    for (int i = 0; i < columns; ++i) {
      const double wanted = (x[i] - mean) / std::sqrt(variance + 1e-5) * weight[i] + bias[i];
      expect(std::fabs(y[i] - wanted) < 1e-5 * (1 + std::fabs(wanted)), k.name, "norm", y[i], wanted);
    }
  }
}

double activated(Activation a, double x) {
  const double sigmoid = 1 / (1 + std::exp(-x));
  switch (a) {
    case Activation::gelu: return x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
    case Activation::gelu_tanh: return x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))) / 2;
    case Activation::relu: return std::max(x, 0.0);
    case Activation::silu: return x * sigmoid;
    case Activation::tanh: return std::tanh(x);
    case Activation::sigmoid: return sigmoid;
    case Activation::identity: break;
  }
  return x;
}

void test_activations(const Kernels& k) {
  for (int number = 0; number < 7; ++number) {
    Floats x;
    for (float value = -30; value <= 30; value += 0.037f) x.push_back(value);
    Floats y = x;
    const auto a = static_cast<Activation>(number);
    k.activate(a, y.data(), y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double wanted = activated(a, x[i]);
      expect(std::fabs(y[i] - wanted) < 2e-6 + 4e-6 * std::fabs(wanted), k.name, "activation " + std::to_string(number), y[i],
             wanted);
    }
  }
}

void test_attention(const Kernels& k) {
  const int size = 32;
  for (const int length : {1, 16, 17, 25, 130}) {
    for (const int window : {-1, 0, 5, 64}) {
      const Floats q = draw(std::size_t(length) * size, 7), key = draw(q.size(), 8), value = draw(q.size(), 9);
      Floats out(q.size()), scratch(attention_scratch(length, window, length, size));
      Attention a;
      a.query = q.data();
      a.key = key.data();
      a.value = value.data();
      a.stride = a.out_stride = a.head_size = size;
      a.out = out.data();
      a.length = a.last = length;
      a.window = window;
      a.scratch = scratch.data();
      k.attend(a);
      Floats first(size);
      a.out = first.data();
      k.attend_one(a);
      for (int i = 0; i < length; ++i) {
        std::vector<double> sums(size);
        double total = 0;
        for (int j = 0; j < length; ++j) {
          if (window >= 0 && std::abs(i - j) > window) continue;
          double score = 0;
          for (int d = 0; d < size; ++d) score += double(q[i * size + d]) * key[j * size + d];
          const double weight = std::exp2(score);
          total += weight;
          for (int d = 0; d < size; ++d) sums[d] += weight * value[j * size + d];
        }
        for (int d = 0; d < size; ++d) {
          const double wanted = sums[d] / total;
          expect(std::fabs(out[i * size + d] - wanted) < 2e-5, k.name, "attention", out[i * size + d], wanted);
          if (i == 0) expect(std::fabs(first[d] - wanted) < 2e-5, k.name, "attention of one", first[d], wanted);
        }
      }
    }
  }
}

// --- a whole model ----------------------------------------------------------------------------------------------

// Scores [3] of a model of two layers with random weights: the same bits for any number of threads.
Floats scores_of(const Kernels& k, Kind kind, int threads) {
  Model m;
  m.is_prenorm = true;
  m.vocabulary = 50;
  m.hidden = m.inner = 64;
  m.heads = 2;
  m.head_size = m.rotary_size = 32;
  m.rotary_half = 16;
  m.global_theta = 160000;
  m.local_theta = 10000;
  m.window = 8;
  m.eps = 1e-5f;
  const Floats ones(64, 1.0f), table = draw(50 * 64, 10);
  m.token_table = table.data();
  m.embed_norm.weight = m.final_norm.weight = ones.data();
  std::vector<std::shared_ptr<Matrix>> kept;
  const auto matrix = [&](int outputs, int inputs) {
    const Floats w = draw(std::size_t(outputs) * inputs, unsigned(kept.size()) + 20);
    kept.push_back(Matrix::packed(kind, w.data(), outputs, inputs, nullptr, 0));
    if (kind == Kind::i8 && k.byte_form == ByteForm::s16s16) kept.back() = kept.back()->widened();
    return kept.back()->linear();
  };
  for (int i = 0; i < 2; ++i) {
    Layer layer;
    layer.qkv = matrix(192, 64);
    layer.attn_out = matrix(64, 64);
    layer.mlp_in = matrix(128, 64);
    layer.mlp_out = matrix(64, 64);
    if (i > 0) layer.attn_norm.weight = ones.data();
    layer.mlp_norm.weight = ones.data();
    layer.is_local = i == 0;
    m.layers.push_back(layer);
  }
  m.pooling = {Pooling::cls};
  std::vector<std::int32_t> ids, zeros(700), offsets = {0, 7, 600, 700};
  for (int t = 0; t < 700; ++t) ids.push_back(t * 7 % 50);
  PackedBatch batch;
  batch.ids = ids.data();
  batch.type_ids = zeros.data();
  batch.offsets = offsets.data();
  batch.count = 3;
  Floats out(3 * 64);
  Engine engine(std::move(m), k, threads);
  const auto job = engine.start(batch, out.data());
  while (!job->wait(1.0)) {
  }
  return out;
}

void test_model(const Kernels& k, Kind kind) {
  const Floats one = scores_of(k, kind, 1), three = scores_of(k, kind, 3), exact = scores_of(k, Kind::f32, 1);
  for (std::size_t i = 0; i < one.size(); ++i) {
    expect(one[i] == three[i], k.name, "three threads", three[i], one[i]);
    const double tolerance = kind == Kind::f32 ? 0 : kind == Kind::i16 ? 0.02 : 0.6;
    expect(std::fabs(one[i] - exact[i]) <= tolerance, k.name, "model in " + kind_name(kind), one[i], exact[i]);
  }
}

}  // namespace

int main() {
  for (const std::string& isa : available_isas()) {
    const Kernels& k = checked_kernels(isa);
    for (const Kind kind : {Kind::f32, Kind::i16, Kind::i8}) test_products(k, kind);
    std::printf("%s: products agree\n", k.name);
    test_norm(k);
    test_activations(k);
    test_attention(k);
    std::printf("%s: norms, activations and attention agree\n", k.name);
    for (const Kind kind : {Kind::f32, Kind::i16, Kind::i8}) test_model(k, kind);
    std::printf("%s: a model gives the same bits with one thread and with three\n", k.name);
  }
  std::printf("all %d checks passed\n", checks);
  return 0;
}
