// What an instruction set must be able to do, and the plain data its kernels work on.
//
// Weights lie in panels of 16 outputs: [N/16][K/g][16][g], where g values of K fill four bytes (1 fp32,
// 2 int16 or 4 int8). A product then is the same loop for every kind: broadcast four bytes of a row, multiply
// by 16 outputs, add. Every instruction set reads this one layout, so a prepacked checkpoint suits all.
//
// The order of additions of an element depends on K alone, never on how many rows or columns are computed
// together: a row's result is the same, bit for bit, whatever else is in the batch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace runoff {

constexpr int kPanel = 16;

// What a product's operands are.
enum class Kind : int {
  f32 = 0,
  i16 = 1,  // fixed point, scaled so that an int32 sum cannot overflow (see packing.h)
  i8 = 2,
};

// How an instruction set holds the activations (and weights) of an int8 product.
enum class ByteForm : int {
  u8s8 = 0,    // activations unsigned, for instructions that want it so
  s8s8 = 1,    // both signed
  s16s16 = 2,  // both widened, for processors that multiply no bytes: zero is 0
};

enum class Activation : int { identity = 0, gelu = 1, gelu_tanh = 2, relu = 3, silu = 4, tanh = 5, sigmoid = 6 };

// A packed weight matrix of `outputs` x `inputs`, both rounded up with zeros: outputs to 16, inputs to `group`.
struct Linear {
  Kind kind = Kind::f32;
  int outputs = 0;
  int inputs = 0;
  const void* panels = nullptr;
  const float* scales = nullptr;      // [outputs], of i16 and i8: weight = integer * scale
  const std::int32_t* sums = nullptr;  // [outputs], of i8: the sum of an output's integers
  const float* bias = nullptr;        // [outputs] or null
};

// What a row's integers mean: number = (integer - zero) * scale.
struct RowUnit {
  float scale = 1.0f;
  std::int32_t zero = 0;  // of i8: its 256 integers go from the row's least number to its greatest
};

// Rows of activations as a product takes them.
struct Rows {
  const void* data = nullptr;
  std::ptrdiff_t stride = 0;       // bytes from row to row
  const RowUnit* units = nullptr;  // [rows], of i16 and i8
};

// What becomes of a product's values. `out` has `stride` floats from row to row.
struct Epilogue {
  enum class Form {
    store,   // out[r][n] = value
    add,     // out[r][n] += value
    glu,     // panels 2j and 2j+1 are values and gates: out[r][16 j + i] = f(value) * gate
    act,     // out[r][n] = f(value)
    rotate,  // store; outputs below `rotated` are turned by their row's position
  };
  Form form = Form::store;
  Activation activation = Activation::identity;
  float* out = nullptr;
  std::ptrdiff_t stride = 0;
  int first_panel = 0;  // the panels computed; `out` still counts from panel 0
  int last_panel = 0;
  // rotate: a panel holds elements j..j+7 of a head's first half, then the same of its second half
  int rotated = 0;
  int half = 0;                     // half of a head's size, a multiple of 8
  const std::int32_t* positions = nullptr;  // [rows]
  const float* cosines = nullptr;   // [position][half]
  const float* sines = nullptr;
};

// Attention of some queries of one sequence in one head. Sizes of heads are multiples of 16.
struct Attention {
  const float* query = nullptr;  // of token 0 of the sequence; scaled so that exp2 of a score is its weight
  const float* key = nullptr;
  const float* value = nullptr;
  std::ptrdiff_t stride = 0;  // floats from token to token
  float* out = nullptr;       // of token 0
  std::ptrdiff_t out_stride = 0;
  int length = 0;        // tokens of the sequence
  int first = 0, last = 0;  // queries computed; `first` is a multiple of kQueries
  int window = -1;       // tokens seen to each side, or -1 for all
  int head_size = 0;
  float* scratch = nullptr;  // attention_scratch() floats
};

constexpr int kQueries = 24;  // queries computed together: a multiple of every tile's rows

// Floats of scratch for `queries` of a sequence of `length` tokens.
std::size_t attention_scratch(int length, int window, int queries, int head_size);

struct Kernels {
  const char* name;
  int tile_rows;
  ByteForm byte_form;
  bool has_fast_i16;  // faster than f32
  bool has_fast_i8;   // clearly faster than i16: by an instruction of its own (else 1.1 times, on AVX2)

  void (*linear)(const Linear&, const Rows&, int rows, const Epilogue&);
  // fp32 rows -> rows as `kind` wants them, `inputs` columns rounded up with zeros. f32 is a copy.
  void (*quantise)(Kind, const float* x, std::ptrdiff_t x_stride, int rows, int columns, void* out,
                   std::ptrdiff_t out_stride, RowUnit* units);
  // y = (x - mean) / sqrt(variance + eps) * weight (+ bias); y may be x
  void (*norm)(const float* x, std::ptrdiff_t x_stride, int rows, int columns, const float* weight, const float* bias,
               float eps, float* y, std::ptrdiff_t y_stride);
  void (*activate)(Activation, float* x, std::size_t count);
  void (*attend)(const Attention&);
  // one query of the sequence, all keys
  void (*attend_one)(const Attention&);
  // y[i] += weight * x[i]
  void (*accumulate)(float* y, const float* x, float weight, int count);
  // Products of registers alone, the most that this processor can do of `kind`; returns how many multiplications.
  std::int64_t (*saturate)(Kind kind, std::int64_t steps);
};

// Bytes of one row as `quantise` writes it; a multiple of 4.
std::size_t row_bytes(Kind, ByteForm, int columns);

// Each is there where the build compiled it, and then defined RUNOFF_HAVE_AVX2 and so on.
const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avxvnni_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512vnni_kernels();
const Kernels* neon_kernels();
const Kernels* neondot_kernels();

// By name ("avx2", ...), or null where this processor cannot run it. An empty name means the best.
const Kernels* kernels_by_name(const char* name);

}  // namespace runoff
