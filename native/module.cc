// runoff._native: the CPU engine for Python. Waiting lets go of the interpreter lock and looks for Ctrl-C.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>

#include "cpu.h"
#include "engine.h"
#include "matrix.h"
#include "probe.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace runoff {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// --- weights ------------------------------------------------------------------------------------------

// The array itself, never a converted copy: pointers into it outlive this call.
template <class Array>
Array array_of(const nb::dict& tables, const char* name) {
  const nb::object item = tables[name];  // here, where it may raise KeyError: try_cast may not
  Array array;
  if (!nb::try_cast(item, array, false)) {
    throw std::invalid_argument(std::string(name) + " must be a contiguous array of its type");
  }
  return array;
}

const float* floats_of(const nb::dict& tables, const char* name, std::size_t size) {
  const auto array = array_of<nb::ndarray<const float, nb::c_contig, nb::device::cpu>>(tables, name);
  if (array.size() != size) {
    throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(size) + " numbers, got " +
                                std::to_string(array.size()));
  }
  return array.data();
}

Norm norm_of(const nb::dict& tables, const std::string& name, int size) {
  Norm norm;
  const std::string weight = name + ".weight", bias = name + ".bias";
  if (tables.contains(weight.c_str())) norm.weight = floats_of(tables, weight.c_str(), size);
  if (tables.contains(bias.c_str())) norm.bias = floats_of(tables, bias.c_str(), size);
  return norm;
}

Activation activation_of(const std::string& name) {
  const char* names[] = {"identity", "gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid"};
  for (int i = 0; i < 7; ++i) {
    if (name == names[i]) return static_cast<Activation>(i);
  }
  throw std::invalid_argument("unknown activation " + name);
}

Pooling pooling_of(const std::string& name) {
  const char* names[] = {"cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"};
  for (int i = 0; i < 6; ++i) {
    if (name == names[i]) return static_cast<Pooling>(i);
  }
  throw std::invalid_argument("unknown pooling " + name);
}

// An engine and everything its pointers point into.
class NativeEngine {
 public:
  NativeEngine(const nb::dict& config, nb::dict tables, const nb::list& layers, const nb::list& head,
               const std::string& isa, int threads)
      : tables_(std::move(tables)), kernels_(checked_kernels(isa)) {
    Model m;
    const auto number = [&](const char* name) { return nb::cast<int>(config[name]); };
    const auto real = [&](const char* name) { return nb::cast<float>(config[name]); };
    m.is_prenorm = nb::cast<bool>(config["is_prenorm"]);
    m.vocabulary = number("vocabulary");
    m.hidden = number("hidden");
    m.heads = number("heads");
    m.inner = number("inner");
    m.head_size = number("head_size");
    m.rotary_half = number("rotary_half");
    m.rotary_size = number("rotary_size");
    m.global_theta = real("global_theta");
    m.local_theta = real("local_theta");
    m.window = number("window");
    m.eps = real("eps");
    m.activation = activation_of(nb::cast<std::string>(config["activation"]));
    read_tables(m, number("position_rows"), number("type_rows"));
    for (const nb::handle item : layers) m.layers.push_back(layer_of(nb::cast<nb::dict>(item), m));
    for (const nb::handle item : nb::cast<nb::list>(config["pooling"])) {
      m.pooling.push_back(pooling_of(nb::cast<std::string>(item)));
    }
    for (const nb::handle item : head) m.head.push_back(step_of(nb::cast<nb::dict>(item)));
    engine_ = std::make_unique<Engine>(std::move(m), kernels_, threads);
  }

  Engine& engine() { return *engine_; }

 private:
  void read_tables(Model& m, int position_rows, int type_rows) {
    const auto table = array_of<nb::ndarray<nb::ndim<2>, nb::ro, nb::c_contig, nb::device::cpu>>(tables_, "embed.token");
    const auto type = nb::cast<std::string>(tables_["embed.token.type"]);
    m.table_type = type == "F32" ? TableType::f32 : type == "BF16" ? TableType::bf16 : TableType::f16;
    const std::size_t width = m.table_type == TableType::f32 ? 4 : 2;
    if (static_cast<int>(table.shape(0)) != m.vocabulary || static_cast<int>(table.shape(1)) != m.hidden ||
        table.itemsize() != width) {
      throw std::invalid_argument("the token table does not have vocabulary x hidden numbers of its type");
    }
    m.token_table = table.data();
    if (!m.is_prenorm) {
      m.position_rows = position_rows;
      m.type_rows = type_rows;
      m.position_table = floats_of(tables_, "embed.position", static_cast<std::size_t>(position_rows) * m.hidden);
      m.type_table = floats_of(tables_, "embed.type", static_cast<std::size_t>(type_rows) * m.hidden);
    }
    m.embed_norm = norm_of(tables_, "embed.norm", m.hidden);
    m.final_norm = norm_of(tables_, "final_norm", m.hidden);
  }

  Linear linear_of(const nb::handle& item) {
    const auto matrix = Matrix::suited(nb::cast<std::shared_ptr<Matrix>>(item), kernels_.byte_form);
    matrices_.push_back(matrix);
    return matrix->linear();
  }

  Layer layer_of(const nb::dict& item, const Model& m) {
    Layer layer;
    layer.qkv = linear_of(item["qkv"]);
    layer.attn_out = linear_of(item["attn_out"]);
    layer.mlp_in = linear_of(item["mlp_in"]);
    layer.mlp_out = linear_of(item["mlp_out"]);
    layer.is_local = nb::cast<bool>(item["is_local"]);
    const std::string name = std::to_string(m.layers.size());
    layer.attn_norm = norm_of(tables_, name + ".attn_norm", m.hidden);
    layer.mlp_norm = norm_of(tables_, name + ".mlp_norm", m.hidden);
    return layer;
  }

  HeadStep step_of(const nb::dict& item) {
    HeadStep step;
    const auto form = nb::cast<std::string>(item["form"]);
    step.size = nb::cast<int>(item["size"]);
    if (form == "dense") {
      step.dense = linear_of(item["weight"]);
      step.activation = activation_of(nb::cast<std::string>(item["activation"]));
      step.adds_input = nb::cast<bool>(item["adds_input"]);
      if (item.contains("residual")) step.residual = linear_of(item["residual"]);
      return step;
    }
    step.form = form == "norm" ? HeadStep::Form::norm : HeadStep::Form::normalize;
    if (form == "norm") {
      step.norm = norm_of(tables_, nb::cast<std::string>(item["name"]), step.size);
      if (!step.norm.weight) throw std::invalid_argument("a norm of the head has no weight");
      step.eps = nb::cast<float>(item["eps"]);
    }
    return step;
  }

  nb::dict tables_;
  const Kernels& kernels_;
  std::vector<std::shared_ptr<Matrix>> matrices_;
  std::unique_ptr<Engine> engine_;
};

// --- forwards -----------------------------------------------------------------------------------------

// A forward under way, with the arrays it reads and writes.
class Forward {
 public:
  Forward(NativeEngine& engine, Ints ids, Ints type_ids, std::optional<Ints> positions, Ints offsets)
      : ids_(std::move(ids)), type_ids_(std::move(type_ids)), positions_(std::move(positions)),
        offsets_(std::move(offsets)) {
    if (offsets_.size() < 1) throw std::invalid_argument("offsets must have at least one number");
    PackedBatch batch;
    batch.ids = ids_.data();
    batch.type_ids = type_ids_.data();
    batch.positions = positions_ ? positions_->data() : nullptr;
    batch.offsets = offsets_.data();
    batch.count = static_cast<int>(offsets_.size()) - 1;
    const std::size_t tokens = ids_.size();
    if (type_ids_.size() != tokens || (positions_ && positions_->size() != tokens) ||
        static_cast<std::size_t>(offsets_.data()[batch.count]) != tokens) {
      throw std::invalid_argument("ids, type_ids and positions must have as many numbers as the last offset says");
    }
    if (!positions_ && !engine.engine().model().is_prenorm) throw std::invalid_argument("positions are missing");
    width_ = engine.engine().model().output_size();
    rows_ = batch.count;
    out_ = std::make_unique<float[]>(static_cast<std::size_t>(rows_) * width_);
    job_ = engine.engine().start(batch, out_.get());
  }

  ~Forward() {
    const nb::gil_scoped_release unlocked;
    job_.reset();
  }

  // The outputs, once they are there. Twenty times a second it asks whether Ctrl-C was pressed.
  nb::ndarray<nb::numpy, float, nb::ndim<2>> result() {
    if (!out_ || is_given_up_) throw std::invalid_argument("this forward's result was taken or given up before");
    for (;;) {
      bool has_ended;
      {
        const nb::gil_scoped_release unlocked;
        has_ended = job_->wait(0.05);
      }
      if (has_ended) break;
      if (PyErr_CheckSignals() != 0) {
        job_->cancel();
        is_given_up_ = true;
        throw nb::python_error();
      }
    }
    float* data = out_.release();
    const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return nb::ndarray<nb::numpy, float, nb::ndim<2>>(
        data, {static_cast<std::size_t>(rows_), static_cast<std::size_t>(width_)}, owner);
  }

 private:
  Ints ids_, type_ids_;
  std::optional<Ints> positions_;
  Ints offsets_;
  int rows_ = 0, width_ = 0;
  bool is_given_up_ = false;
  std::unique_ptr<float[]> out_;
  std::unique_ptr<Job> job_;
};

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Runoff's CPU kernels. Use runoff.CrossEncoder; this module's names may change.";
  m.def("available_isas", &available_isas, "Instruction sets that this processor can run, best first.");
  m.def("describe", [](const std::string& isa) {
    const Kernels& k = checked_kernels(isa);
    nb::dict says;
    says["name"] = k.name;
    says["has_fast_i16"] = k.has_fast_i16;
    says["has_fast_i8"] = k.has_fast_i8;
    return says;
  });

  nb::class_<Matrix>(m, "Matrix")
      .def_static(
          "pack",
          [](const std::string& kind, FloatMatrix weights, std::optional<Floats> bias) {
            const nb::gil_scoped_release unlocked;
            return Matrix::packed(kind_of(kind), weights.data(), static_cast<int>(weights.shape(0)),
                                  static_cast<int>(weights.shape(1)), bias ? bias->data() : nullptr,
                                  bias ? bias->size() : 0);
          },
          "kind"_a, "weights"_a, "bias"_a.none() = nb::none())
      .def_static(
          "stored",
          [](const std::string& kind, int outputs, int inputs,
             nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> panels, std::optional<Floats> scales,
             std::optional<Floats> bias) {
            auto matrix = Matrix::stored(kind_of(kind), outputs, inputs, panels.data(), panels.size(),
                                         scales ? scales->data() : nullptr, scales ? scales->size() : 0,
                                         bias ? bias->data() : nullptr, bias ? bias->size() : 0);
            matrix->keep(std::make_shared<decltype(panels)>(panels));
            return matrix;
          },
          "kind"_a, "outputs"_a, "inputs"_a, "panels"_a, "scales"_a.none() = nb::none(), "bias"_a.none() = nb::none())
      .def_prop_ro("kind", [](const Matrix& x) { return kind_name(x.kind()); })
      .def_prop_ro("outputs", [](const Matrix& x) { return x.linear().outputs; })
      .def_prop_ro("inputs", [](const Matrix& x) { return x.linear().inputs; })
      .def_prop_ro(
          "panels",
          [](const Matrix& x) {
            return nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>>(x.linear().panels, {x.size()});
          },
          nb::rv_policy::reference_internal)
      .def_prop_ro(
          "scales",
          [](const Matrix& x) {
            return nb::ndarray<nb::numpy, const float, nb::ndim<1>>(x.linear().scales, {x.scale_count()});
          },
          nb::rv_policy::reference_internal);

  nb::class_<NativeEngine>(m, "Engine")
      .def(nb::init<const nb::dict&, nb::dict, const nb::list&, const nb::list&, const std::string&, int>(), "config"_a,
           "tables"_a, "layers"_a, "head"_a, "isa"_a, "threads"_a)
      .def(
          "start",
          [](NativeEngine& engine, Ints ids, Ints type_ids, std::optional<Ints> positions, Ints offsets) {
            return std::make_unique<Forward>(engine, std::move(ids), std::move(type_ids), std::move(positions),
                                             std::move(offsets));
          },
          "ids"_a, "type_ids"_a, "positions"_a.none(), "offsets"_a, nb::keep_alive<0, 1>())
      .def_prop_ro("threads", [](NativeEngine& engine) { return engine.engine().threads(); });
  nb::class_<Forward>(m, "Forward").def("result", &Forward::result);

  bind_probes(m);
}

}  // namespace runoff
