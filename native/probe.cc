#include "probe.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "matrix.h"
#include "operands.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace runoff {
namespace {

using Input = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

Output made(int rows, int columns, std::vector<float> values) {
  auto* kept = new std::vector<float>(std::move(values));
  const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  return Output(kept->data(), {static_cast<std::size_t>(rows), static_cast<std::size_t>(columns)}, owner);
}

Quantised quantised(const Kernels& k, Kind kind, const Input& x) {
  return runoff::quantised(k, kind, x.data(), static_cast<int>(x.shape(0)), static_cast<int>(x.shape(1)));
}

// For `padded` outputs, as many columns of `out` (of "glu": half as many).
Epilogue epilogue_of(const std::string& form, int activation, int padded, float* out) {
  if (form == "glu" && padded / kPanel % 2) throw std::invalid_argument("glu needs a gate for every panel of values");
  Epilogue e;
  e.form = form == "add"   ? Epilogue::Form::add
           : form == "act" ? Epilogue::Form::act
           : form == "glu" ? Epilogue::Form::glu
                           : Epilogue::Form::store;
  e.activation = static_cast<Activation>(activation);
  e.out = out;
  e.stride = form == "glu" ? padded / 2 : padded;
  e.last_panel = padded / kPanel;
  return e;
}

// x W^T + bias, through an epilogue: "store", "add" (to ones), "act" or "glu".
Output multiply(const std::string& isa, const std::shared_ptr<Matrix>& matrix, const Input& x, const std::string& form,
                int activation) {
  const Kernels& k = checked_kernels(isa);
  const std::shared_ptr<Matrix> fit = Matrix::suited(matrix, k.byte_form);
  const Linear& w = fit->linear();
  if (static_cast<int>(x.shape(1)) != w.inputs) throw std::invalid_argument("x does not fit the matrix");
  const int rows = static_cast<int>(x.shape(0)), padded = rounded_up(w.outputs, kPanel);
  const int width = form == "glu" ? padded / 2 : padded;
  std::vector<float> out(static_cast<std::size_t>(rows) * width, 1.0f);
  const Quantised q = quantised(k, w.kind, x);
  const Epilogue e = epilogue_of(form, activation, padded, out.data());
  k.linear(w, q.rows, rows, e);
  return made(rows, width, std::move(out));
}

// The same with each panel of the first `rotated` outputs turned by the row's position.
Output rotate(const std::string& isa, const std::shared_ptr<Matrix>& matrix, const Input& x, int rotated,
              nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig> positions, const Input& cosines,
              const Input& sines) {
  const Kernels& k = checked_kernels(isa);
  const std::shared_ptr<Matrix> fit = Matrix::suited(matrix, k.byte_form);
  const Linear& w = fit->linear();
  const int rows = static_cast<int>(x.shape(0)), padded = rounded_up(w.outputs, kPanel);
  if (static_cast<int>(x.shape(1)) != w.inputs || positions.size() != x.shape(0) || cosines.shape(1) % 8 != 0) {
    throw std::invalid_argument("x, positions or angles do not fit");
  }
  std::vector<float> out(static_cast<std::size_t>(rows) * padded);
  const Quantised q = quantised(k, w.kind, x);
  Epilogue e;
  e.form = Epilogue::Form::rotate;
  e.out = out.data();
  e.stride = padded;
  e.last_panel = padded / kPanel;
  e.rotated = rotated;
  e.half = static_cast<int>(cosines.shape(1));
  e.positions = positions.data();
  e.cosines = cosines.data();
  e.sines = sines.data();
  k.linear(w, q.rows, rows, e);
  return made(rows, padded, std::move(out));
}

// Rows rounded as products of `kind` see them, as floats again.
Output rounded(const std::string& isa, const std::string& kind_text, const Input& x) {
  const Kernels& k = checked_kernels(isa);
  const Kind kind = kind_of(kind_text);
  const int rows = static_cast<int>(x.shape(0)), columns = static_cast<int>(x.shape(1));
  const Quantised q = quantised(k, kind, x);
  const bool is_byte = kind == Kind::i8 && k.byte_form != ByteForm::s16s16;
  std::vector<float> out(static_cast<std::size_t>(rows) * columns);
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < columns; ++i) {
      const std::uint8_t* row = q.data.data() + r * q.rows.stride;
      float& value = out[static_cast<std::size_t>(r) * columns + i];
      std::int16_t wide;
      if (kind == Kind::f32) {
        std::memcpy(&value, row + 4 * i, 4);
      } else if (!is_byte) {
        std::memcpy(&wide, row + 2 * i, 2);
        value = wide * q.units[r].scale;
      } else {
        const int byte = k.byte_form == ByteForm::u8s8 ? row[i] : static_cast<std::int8_t>(row[i]);
        value = static_cast<float>(byte - q.units[r].zero) * q.units[r].scale;
      }
    }
  }
  return made(rows, columns, std::move(out));
}

Output norm(const std::string& isa, const Input& x, const Vector& weight, std::optional<Vector> bias, float eps) {
  const int rows = static_cast<int>(x.shape(0)), columns = static_cast<int>(x.shape(1));
  if (weight.size() != x.shape(1) || (bias && bias->size() != x.shape(1))) throw std::invalid_argument("sizes");
  std::vector<float> out(static_cast<std::size_t>(rows) * columns);
  checked_kernels(isa).norm(x.data(), columns, rows, columns, weight.data(), bias ? bias->data() : nullptr, eps,
                            out.data(), columns);
  return made(rows, columns, std::move(out));
}

Output activate(const std::string& isa, int activation, const Input& x) {
  std::vector<float> out(x.data(), x.data() + x.size());
  checked_kernels(isa).activate(static_cast<Activation>(activation), out.data(), out.size());
  return made(static_cast<int>(x.shape(0)), static_cast<int>(x.shape(1)), std::move(out));
}

// The fastest of some repetitions, in seconds.
template <class Work>
double fastest(int repetitions, const Work& work) {
  double best = 1e30;
  for (int i = 0; i < repetitions; ++i) {
    const auto began = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
  }
  return best;
}

// Multiplications a second of one thread on registers alone.
double peak(const std::string& isa, const std::string& kind) {
  const Kernels& k = checked_kernels(isa);
  std::int64_t count = 0;
  const double seconds = fastest(20, [&] { count = k.saturate(kind_of(kind), 200000); });
  return static_cast<double>(count) / seconds;
}

// (seconds to quantise the rows, seconds of the product) of one thread.
std::tuple<double, double> time_multiply(const std::string& isa, const std::shared_ptr<Matrix>& matrix, const Input& x,
                                         const std::string& form, int activation, int repetitions) {
  const Kernels& k = checked_kernels(isa);
  const std::shared_ptr<Matrix> fit = Matrix::suited(matrix, k.byte_form);
  const Linear& w = fit->linear();
  if (static_cast<int>(x.shape(1)) != w.inputs) throw std::invalid_argument("x does not fit the matrix");
  const int rows = static_cast<int>(x.shape(0)), columns = w.inputs;
  Quantised q = quantised(k, w.kind, x);
  std::vector<float> out(static_cast<std::size_t>(rows) * rounded_up(w.outputs, kPanel));
  const Epilogue e = epilogue_of(form, activation, rounded_up(w.outputs, kPanel), out.data());
  const double quantising = fastest(repetitions, [&] {
    k.quantise(w.kind, x.data(), columns, rows, columns, q.data.data(), q.rows.stride, q.units.data());
  });
  return {quantising, fastest(repetitions, [&] { k.linear(w, q.rows, rows, e); })};
}

// Attention of queries [first, last) of one sequence in one head; with `is_single`, of query `first` alone.
Output attend(const std::string& isa, const Input& query, const Input& key, const Input& value, int window, int first,
              int last, bool is_single) {
  const int length = static_cast<int>(key.shape(0)), size = static_cast<int>(key.shape(1));
  if (size % kPanel || first % kQueries || last > length || first >= last) throw std::invalid_argument("sizes");
  std::vector<float> scratch(attention_scratch(length, window, last - first, size));
  std::vector<float> out(static_cast<std::size_t>(length) * size, 0.0f);
  Attention a =
      attention_of(query.data(), key.data(), value.data(), out.data(), scratch.data(), length, window, size);
  a.first = first;
  a.last = last;
  const Kernels& k = checked_kernels(isa);
  (is_single ? k.attend_one : k.attend)(a);
  return made(length, size, std::move(out));
}

double time_attend(const std::string& isa, int length, int window, int size, int repetitions) {
  if (size % kPanel || length < 1) throw std::invalid_argument("sizes");
  const std::size_t count = static_cast<std::size_t>(length) * size;
  std::vector<float> qkv(3 * count, 0.01f), out(count), scratch(attention_scratch(length, window, length, size));
  const Attention a = attention_of(qkv.data(), qkv.data() + count, qkv.data() + 2 * count, out.data(), scratch.data(),
                                   length, window, size);
  const Kernels& k = checked_kernels(isa);
  return fastest(repetitions, [&] { k.attend(a); });
}

}  // namespace

void bind_probes(nb::module_& m) {
  m.def("probe_multiply", &multiply, "isa"_a, "matrix"_a, "x"_a, "form"_a = "store", "activation"_a = 0);
  m.def("probe_rotate", &rotate, "isa"_a, "matrix"_a, "x"_a, "rotated"_a, "positions"_a, "cosines"_a, "sines"_a);
  m.def("probe_rounded", &rounded, "isa"_a, "kind"_a, "x"_a);
  m.def("probe_norm", &norm, "isa"_a, "x"_a, "weight"_a, "bias"_a.none(), "eps"_a);
  m.def("probe_activate", &activate, "isa"_a, "activation"_a, "x"_a);
  m.def("probe_attend", &attend, "isa"_a, "query"_a, "key"_a, "value"_a, "window"_a, "first"_a, "last"_a,
        "is_single"_a = false);
  m.def("probe_peak", &peak, "isa"_a, "kind"_a);
  m.def("time_multiply", &time_multiply, "isa"_a, "matrix"_a, "x"_a, "form"_a, "activation"_a, "repetitions"_a);
  m.def("time_attend", &time_attend, "isa"_a, "length"_a, "window"_a, "size"_a, "repetitions"_a);
}

}  // namespace runoff
