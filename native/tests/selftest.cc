// Every kernel of every instruction set that runs here against plain loops in double, without Python: for
// cross-compiled builds under an emulator and for builds with sanitizers. One line a kernel; fails with the first
// differences.

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu.h"
#include "kernels.h"
#include "matrix.h"
#include "operands.h"
#include "packing.h"
#include "small_model.h"

namespace runoff {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

constexpr double kEps = 1.1920929e-7;

int checks = 0, failures = 0;

void expect(bool is_so, const char* format, ...) {
  ++checks;
  if (is_so) return;
  if (++failures > 20) return;  // the first ones tell enough
  std::printf("  FAILED: ");
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

void near(double found, double wanted, double allowed, const char* what, int row, int column) {
  expect(std::fabs(found - wanted) <= allowed, "%s [%d][%d]: %.9g, expected %.9g within %.3g", what, row, column, found,
         wanted, allowed);
}

Floats draw(std::size_t count, unsigned seed) {
  std::mt19937 bits(seed);  // its numbers are the same everywhere; those of distributions are not
  Floats values(count);
  for (float& value : values) value = static_cast<float>(static_cast<double>(bits()) / 2147483648.0 - 1.0);
  return values;
}

double twin(Activation a, double x) {
  switch (a) {
    case Activation::identity: return x;
    case Activation::gelu: return x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
    case Activation::gelu_tanh: return x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) / 2;
    case Activation::relu: return std::max(x, 0.0);
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::tanh: return std::tanh(x);
    case Activation::sigmoid: return 1 / (1 + std::exp(-x));
  }
  return x;
}

constexpr Activation kActivations[] = {Activation::identity, Activation::gelu, Activation::gelu_tanh, Activation::relu,
                                       Activation::silu,     Activation::tanh, Activation::sigmoid};

// --- products ---------------------------------------------------------------------------------------

// Number (row, i) of quantised rows, as an integer (or as it is, of f32).
double at(const Kernels& k, Kind kind, const Quantised& q, int row, int i) {
  const char* from = reinterpret_cast<const char*>(q.data.data()) + row * q.rows.stride;
  if (kind == Kind::f32) {
    float value;
    std::memcpy(&value, from + 4 * i, 4);
    return value;
  }
  if (kind == Kind::i8 && k.byte_form != ByteForm::s16s16) {
    const int byte = k.byte_form == ByteForm::u8s8 ? static_cast<unsigned char>(from[i]) : static_cast<signed char>(from[i]);
    return byte - q.units[row].zero;
  }
  std::int16_t value;
  std::memcpy(&value, from + 2 * i, 2);
  return value;
}

// Number (n, i) of packed weights, likewise.
double weight_at(const Linear& w, bool is_wide, int n, int i) {
  const int group = w.kind == Kind::f32 ? 1 : is_wide ? 2 : 4;
  const std::size_t steps = (w.inputs + group - 1) / group;
  const std::size_t place = ((n / kPanel) * steps + i / group) * kPanel + n % kPanel;
  const char* from = static_cast<const char*>(w.panels) + place * 4 + i % group * (4 / group);
  if (group == 4) return static_cast<signed char>(*from);
  if (group == 2) {
    std::int16_t value;
    std::memcpy(&value, from, 2);
    return value;
  }
  float value;
  std::memcpy(&value, from, 4);
  return value;
}

void check_rounding(const Kernels& k, Kind kind, const Floats& x, const Quantised& q, int rows, int columns) {
  for (int r = 0; r < rows; ++r) {
    double least = 0, most = 0, squares = 0;
    for (int i = 0; i < columns; ++i) {
      const double value = x[static_cast<std::size_t>(r) * columns + i];
      least = std::min(least, value);
      most = std::max(most, value);
      squares += value * value;
    }
    const double unit = kind == Kind::i8 ? (most - least) / 255
                                         : std::max(std::max(most, -least) / 32767, std::sqrt(squares) / (65500 - std::sqrt(columns) / 2));
    near(q.units[r].scale, unit, 1e-5 * unit, "scale", r, 0);
    for (int i = 0; i < columns; ++i) {
      const double value = x[static_cast<std::size_t>(r) * columns + i];
      near(at(k, kind, q, r, i) * q.units[r].scale, value, 0.51 * unit + 4 * kEps * std::fabs(value), "rounded", r, i);
    }
  }
}

// Integers: exact, but for the last roundings. f32: a rounding of the sum of magnitudes for every input.
void check_products(const Kernels& k, Kind kind) {
  for (const int inputs : {1, 2, 3, 31, 64, 257, 1152}) {
    for (const int outputs : {1, 15, 16, 17, 64, 130}) {
      const Floats weights = draw(static_cast<std::size_t>(outputs) * inputs, 1), bias = draw(outputs, 2);
      const float* biases = outputs == 17 ? nullptr : bias.data();
      const auto matrix =
          Matrix::suited(Matrix::packed(kind, weights.data(), outputs, inputs, biases, outputs), k.byte_form);
      const bool is_wide = kind == Kind::i16 || k.byte_form == ByteForm::s16s16;
      const Linear& w = matrix->linear();
      const int padded = rounded_up(outputs, kPanel);
      for (const int rows : {1, 5, 6, 7, 13, 97}) {
        if (rows == 97 && inputs * outputs > 64 * 257) continue;  // as much again, and under an emulator minutes
        const Floats x = draw(static_cast<std::size_t>(rows) * inputs, 3);
        const Quantised q = quantised(k, kind, x.data(), rows, inputs);
        if (kind != Kind::f32 && outputs == 1) check_rounding(k, kind, x, q, rows, inputs);
        Floats out(static_cast<std::size_t>(rows) * padded);
        Epilogue e;
        e.out = out.data();
        e.stride = padded;
        e.last_panel = padded / kPanel;
        k.linear(w, q.rows, rows, e);
        for (int r = 0; r < rows; ++r) {
          for (int n = 0; n < outputs; ++n) {
            double total = 0, sizes = 0;
            for (int i = 0; i < inputs; ++i) {
              const double part = at(k, kind, q, r, i) * weight_at(w, is_wide, n, i);
              total += part;
              sizes += std::fabs(part);
            }
            const double scale = kind == Kind::f32 ? 1.0 : static_cast<double>(q.units[r].scale) * w.scales[n];
            const double shift = w.bias ? w.bias[n] : 0.0;
            const double lost = kind == Kind::f32 ? (inputs + 2) * sizes : 4 * std::fabs(total);
            near(out[static_cast<std::size_t>(r) * padded + n], total * scale + shift,
                 kEps * (lost * scale + 2 * std::fabs(shift)), "product", r, n);
          }
        }
      }
    }
  }
}

// --- epilogues --------------------------------------------------------------------------------------

void check_epilogues(const Kernels& k) {
  constexpr int rows = 13, inputs = 20, half = 16, outputs = 3 * 2 * half;
  const Floats weights = draw(outputs * inputs, 4), x = draw(rows * inputs, 5);
  const auto matrix = Matrix::packed(Kind::f32, weights.data(), outputs, inputs, nullptr, 0);
  const Quantised q = quantised(k, Kind::f32, x.data(), rows, inputs);
  Doubles exact(rows * outputs);
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < outputs; ++n) {
      for (int i = 0; i < inputs; ++i) {
        exact[r * outputs + n] += static_cast<double>(x[r * inputs + i]) * weights[n * inputs + i];
      }
    }
  }
  const auto apply = [&](Epilogue e, int width) {
    Floats out(rows * width, 1.0f);
    e.out = out.data();
    e.stride = width;
    if (e.last_panel == 0) e.last_panel = outputs / kPanel;
    k.linear(matrix->linear(), q.rows, rows, e);
    return out;
  };
  Epilogue e;
  for (int number = 0; number < 4; ++number) {  // panels [1, 3) and [2, 6), stored and added; the rest stays
    e.form = number % 2 ? Epilogue::Form::add : Epilogue::Form::store;
    e.first_panel = number < 2 ? 1 : 2;
    e.last_panel = number < 2 ? 3 : 6;
    const Floats out = apply(e, outputs);
    for (int i = 0; i < rows * outputs; ++i) {
      const int panel = i % outputs / kPanel;
      const bool is_written = panel >= e.first_panel && panel < e.last_panel;
      const double wanted = is_written ? exact[i] + (number % 2 ? 1 : 0) : 1.0;
      near(out[i], wanted, is_written ? 40 * kEps * inputs : 0, "store or add", i / outputs, i % outputs);
    }
  }
  e = Epilogue();
  for (const Activation a : kActivations) {
    e.activation = a;
    e.form = Epilogue::Form::act;
    const Floats out = apply(e, outputs);
    for (int i = 0; i < rows * outputs; ++i) near(out[i], twin(a, exact[i]), 1e-5, "act", i / outputs, i % outputs);
    e.form = Epilogue::Form::glu;
    const Floats gated = apply(e, outputs / 2);
    for (int i = 0; i < rows * outputs / 2; ++i) {
      const int r = i / (outputs / 2), n = i % (outputs / 2), from = r * outputs + n / kPanel * 2 * kPanel + n % kPanel;
      near(gated[i], twin(a, exact[from]) * exact[from + kPanel], 5e-5, "glu", r, n);
    }
  }
  e = Epilogue();
  std::vector<std::int32_t> positions(rows);
  Floats cosines(rows * half), sines(rows * half);
  for (int i = 0; i < rows * half; ++i) {
    positions[i / half] = rows - 1 - i / half;
    cosines[i] = static_cast<float>(std::cos(i / half * std::pow(0.7, i % half)));
    sines[i] = static_cast<float>(std::sin(i / half * std::pow(0.7, i % half)));
  }
  e.form = Epilogue::Form::rotate;
  e.rotated = 2 * 2 * half;
  e.half = half;
  e.positions = positions.data();
  e.cosines = cosines.data();
  e.sines = sines.data();
  const Floats out = apply(e, outputs);
  for (int i = 0; i < rows * outputs; ++i) {
    const int r = i / outputs, n = i % outputs, j = n / kPanel % (half / 8) * 8 + n % 8;
    const bool is_second = n % kPanel >= 8;
    const double other = exact[is_second ? i - 8 : i + 8], angle = positions[r] * std::pow(0.7, j);
    const double turned = exact[i] * std::cos(angle) + (is_second ? other : -other) * std::sin(angle);
    near(out[i], n < e.rotated ? turned : exact[i], 100 * kEps * inputs, "rotate", r, n);
  }
}

// --- rows -------------------------------------------------------------------------------------------

void check_norms(const Kernels& k) {
  for (const int columns : {1, 7, 16, 33, 256, 1000}) {
    const Floats weight = draw(columns, 6), bias = draw(columns, 7);
    Floats x = draw(3 * columns, 8), y(3 * columns);
    for (int i = 0; i < columns; ++i) x[columns + i] = 3.0f;
    for (int i = 0; i < columns; ++i) x[2 * columns + i] += 100.0f;
    k.norm(x.data(), columns, 3, columns, weight.data(), bias.data(), 1e-5f, y.data(), columns);
    for (int r = 0; r < 3; ++r) {
      double mean = 0, variance = 0;
      for (int i = 0; i < columns; ++i) mean += x[r * columns + i] / static_cast<double>(columns);
      for (int i = 0; i < columns; ++i) variance += std::pow(x[r * columns + i] - mean, 2) / columns;
      for (int i = 0; i < columns; ++i) {
        const double wanted = (x[r * columns + i] - mean) / std::sqrt(variance + 1e-5) * weight[i] + bias[i];
        near(y[r * columns + i], wanted, r == 2 ? 3e-4 : 1e-5, "norm", r, i);
      }
    }
    k.norm(x.data(), columns, 3, columns, weight.data(), nullptr, 1e-5f, x.data(), columns);  // in place, no bias
    for (int i = 0; i < 3 * columns; ++i) near(x[i], y[i] - bias[i % columns], 1e-5, "norm in place", 0, i);
  }
}

void check_activations(const Kernels& k) {
  for (const Activation a : kActivations) {
    Floats x(6001), y;
    for (int i = 0; i < 6001; ++i) x[i] = static_cast<float>((i - 3000) / 100.0);
    y = x;
    k.activate(a, y.data(), y.size());
    for (int i = 0; i < 6001; ++i) near(y[i], twin(a, x[i]), 2e-6 + 2e-6 * std::fabs(twin(a, x[i])), "activate", 0, i);
  }
  Floats x = draw(37, 9), y = draw(37, 10), sum = y;
  k.accumulate(sum.data(), x.data(), 0.3f, 37);
  for (int i = 0; i < 37; ++i) near(sum[i], y[i] + 0.3f * static_cast<double>(x[i]), 2 * kEps, "accumulate", 0, i);
}

// --- attention --------------------------------------------------------------------------------------

void check_attention(const Kernels& k) {
  for (const int size : {16, 64, 80}) {
    for (const int length : {1, 15, 17, 25, 130}) {
      for (const int window : {-1, 0, 1, 64}) {
        const std::size_t count = static_cast<std::size_t>(length) * size;
        const Floats query = draw(count, 11), key = draw(count, 12), value = draw(count, 13);
        Floats out(count), one(size), scratch(attention_scratch(length, window, length, size));
        Attention a =
            attention_of(query.data(), key.data(), value.data(), out.data(), scratch.data(), length, window, size);
        k.attend(a);
        a.out = one.data();
        a.first = length / 2;
        k.attend_one(a);
        for (int t = 0; t < length; ++t) {
          Doubles mixed(size);
          double total = 0;
          for (int j = 0; j < length; ++j) {
            if (window >= 0 && std::abs(j - t) > window) continue;
            double score = 0;
            for (int i = 0; i < size; ++i) score += static_cast<double>(query[t * size + i]) * key[j * size + i];
            const double weight = std::exp2(score);
            total += weight;
            for (int i = 0; i < size; ++i) mixed[i] += weight * value[j * size + i];
          }
          // Scores up to 30 are off by 80 roundings, weights by 70 % of that.
          for (int i = 0; i < size; ++i) near(out[t * size + i], mixed[i] / total, 2e-5, "attend", t, i);
          for (int i = 0; i < size && t == a.first; ++i) near(one[i], mixed[i] / total, 2e-5, "attend_one", t, i);
        }
      }
    }
  }
}

// --- whole models -----------------------------------------------------------------------------------

void check_model(const Kernels& k, Kind kind, bool is_prenorm, const Floats& exact) {
  const std::vector<int> lengths = {700, 1, 17, 40, 2, 130};
  const Floats together = SmallModel(k, kind, is_prenorm, 1).score(lengths);
  expect(SmallModel(k, kind, is_prenorm, 3).score(lengths) == together, "three threads give other bits than one");
  SmallModel model(k, kind, is_prenorm, 2);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const Floats alone = model.score({lengths[i]}, static_cast<int>(i));
    expect(std::equal(alone.begin(), alone.end(), together.begin() + i * alone.size()), "sequence %d alone differs",
           static_cast<int>(i));
  }
  for (std::size_t i = 0; i < exact.size(); ++i) {
    near(together[i], exact[i], kind == Kind::f32 ? 1e-5 : kind == Kind::i16 ? 1e-3 : 0.2, "score", 0, static_cast<int>(i));
  }
}

int run() {
  Floats exact[2];
  for (const bool is_prenorm : {false, true}) {
    exact[is_prenorm] = SmallModel(*portable_kernels(), Kind::f32, is_prenorm, 1).score({700, 1, 17, 40, 2, 130});
  }
  for (const std::string& name : available_isas()) {
    const Kernels& k = *kernels_by_name(name.c_str());
    const auto report = [&](const char* what, const auto& check) {
      const int checks_before = checks, failures_before = failures;
      check();
      std::printf("%-10s %-12s %8d checks%s\n", name.c_str(), what, checks - checks_before,
                  failures == failures_before ? "" : ", FAILED");
      std::fflush(stdout);
    };
    report("linear f32", [&] { check_products(k, Kind::f32); });
    report("linear i16", [&] { check_products(k, Kind::i16); });
    report("linear i8", [&] { check_products(k, Kind::i8); });
    report("epilogues", [&] { check_epilogues(k); });
    report("norm", [&] { check_norms(k); });
    report("activate", [&] { check_activations(k); });
    report("attend", [&] { check_attention(k); });
    report("model", [&] {
      for (const Kind kind : {Kind::f32, Kind::i16, Kind::i8}) {
        for (const bool is_prenorm : {false, true}) check_model(k, kind, is_prenorm, exact[is_prenorm]);
      }
    });
  }
  if (failures) {
    std::printf("%d of %d checks FAILED\n", failures, checks);
    return 1;
  }
  std::printf("all %d checks passed\n", checks);
  return 0;
}

}  // namespace
}  // namespace runoff

int main() { return runoff::run(); }
