// The kernels, written once over vectors of RUNOFF_LANES floats and compiled anew for each instruction set.
//
// The including file defines, before this header:
//   RUNOFF_LANES      floats in a vector: 4, 8 or 16
//   RUNOFF_ROWS       rows of a tile        (with RUNOFF_PANELS, as many accumulators as registers hold)
//   RUNOFF_PANELS     panels of a tile: 1, 2 or 4
//   RUNOFF_TABLE      the function that returns the table, and RUNOFF_NAME, its name
//   RUNOFF_BYTE_FORM, RUNOFF_FAST_I16, RUNOFF_FAST_I8
//   dot_i16(acc, a, b), dot_i8(acc, a, b): acc + the products of the 2 int16 or 4 int8 in each 32-bit lane
//
// Nothing here may come from the C++ standard library, and everything is in an unnamed namespace: an inline
// function compiled with AVX-512 must not become the copy that the linker keeps for everybody.

#include <math.h>
#include <string.h>

#include "kernels.h"

namespace runoff {
namespace {

constexpr int L = RUNOFF_LANES;
constexpr int kVectors = kPanel / L;  // vectors of a panel

typedef float VF __attribute__((vector_size(4 * RUNOFF_LANES), may_alias));
typedef std::int32_t VI __attribute__((vector_size(4 * RUNOFF_LANES), may_alias));
typedef float VFu __attribute__((vector_size(4 * RUNOFF_LANES), may_alias, aligned(1)));
typedef std::int32_t VIu __attribute__((vector_size(4 * RUNOFF_LANES), may_alias, aligned(1)));
typedef std::int16_t VS __attribute__((vector_size(2 * RUNOFF_LANES), may_alias));
typedef std::int16_t VSu __attribute__((vector_size(2 * RUNOFF_LANES), may_alias, aligned(1)));
typedef std::int8_t VB __attribute__((vector_size(RUNOFF_LANES), may_alias));
typedef std::int8_t VBu __attribute__((vector_size(RUNOFF_LANES), may_alias, aligned(1)));
typedef std::int32_t Int32u __attribute__((may_alias, aligned(1)));
typedef float Floatu __attribute__((may_alias, aligned(1)));

#define RUNOFF_INLINE inline __attribute__((always_inline))
// The loops below have constant bounds and small bodies; unrolled, their arrays become registers.
#define RUNOFF_UNROLL _Pragma("GCC unroll 64")

RUNOFF_INLINE VF load(const float* p) { return *reinterpret_cast<const VFu*>(p); }
RUNOFF_INLINE void store(float* p, VF v) { *reinterpret_cast<VFu*>(p) = v; }
RUNOFF_INLINE VF splat(float x) { return x - VF{}; }
RUNOFF_INLINE VI splat(std::int32_t x) { return x - VI{}; }
RUNOFF_INLINE VF bits_to_float(VI v) { return reinterpret_cast<VF&>(v); }
RUNOFF_INLINE VI bits_to_int(VF v) { return reinterpret_cast<VI&>(v); }
RUNOFF_INLINE VF larger(VF a, VF b) { return a > b ? a : b; }
RUNOFF_INLINE VF magnitude(VF v) { return bits_to_float(bits_to_int(v) & 0x7fffffff); }

RUNOFF_INLINE float sum(VF v) {
  float parts[L];
  memcpy(parts, &v, sizeof v);
  RUNOFF_UNROLL for (int width = L / 2; width > 0; width /= 2) {
    RUNOFF_UNROLL for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
  }
  return parts[0];
}

RUNOFF_INLINE float largest(VF v) {
  float parts[L];
  memcpy(parts, &v, sizeof v);
  float best = parts[0];
  RUNOFF_UNROLL for (int i = 1; i < L; ++i) best = parts[i] > best ? parts[i] : best;
  return best;
}

#include "dot.h"

// --- functions of a vector --------------------------------------------------------------------------

// 1.5 * 2^23: adding it to |x| < 2^22 leaves the nearest integer in the low bits.
constexpr float kRounder = 12582912.0f;
constexpr std::int32_t kRounderBits = 0x4b400000;

RUNOFF_INLINE VI nearest(VF x) { return bits_to_int(x + kRounder) - kRounderBits; }

// 2^x, relative error 1e-7; 0 below 2^-126. The coefficients are a weighted least-squares fit of the relative
// error on [-1/2, 1/2] that was refined until it was level (1.9e-9 in exact arithmetic).
RUNOFF_INLINE VF exp2(VF x) {
  const VF below = x > 127.0f ? splat(127.0f) : x;
  const VF clamped = below < -127.0f ? splat(-127.0f) : below;  // the comparison leaves what is not a number
  const VF shifted = clamped + kRounder;
  const VF f = clamped - (shifted - kRounder);
  VF p = splat(0.00015345810970757157f);
  p = p * f + 0.0013399930903688073f;
  p = p * f + 0.009618489071726799f;
  p = p * f + 0.05550328642129898f;
  p = p * f + 0.24022646248340607f;
  p = p * f + 0.6931471824645996f;
  p = p * f + 1.0f;
  const VF scaled = bits_to_float(bits_to_int(p) + ((bits_to_int(shifted) - kRounderBits) << 23));
  return x < -126.0f ? splat(0.0f) : (x == x ? scaled : x);
}

constexpr float kLog2E = 1.4426950408889634f;

RUNOFF_INLINE VF sigmoid(VF x) { return 1.0f / (1.0f + exp2(x * -kLog2E)); }

RUNOFF_INLINE VF tanh(VF x) { return 1.0f - 2.0f / (1.0f + exp2(x * (2 * kLog2E))); }

// x times the normal distribution function: Abramowitz and Stegun, formula 7.1.26 (1.5e-7).
RUNOFF_INLINE VF gelu(VF x) {
  const VF z = magnitude(x) * 0.7071067811865476f;
  const VF t = 1.0f / (1.0f + 0.3275911f * z);
  VF p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const VF tail = 0.5f * p * t * exp2(z * z * -kLog2E);  // the distribution function at -|x|
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

RUNOFF_INLINE VF gelu_tanh(VF x) {
  return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
}

template <Activation A>
RUNOFF_INLINE VF activated(VF x) {
  if constexpr (A == Activation::gelu) return gelu(x);
  if constexpr (A == Activation::gelu_tanh) return gelu_tanh(x);
  if constexpr (A == Activation::relu) return x < 0.0f ? splat(0.0f) : x;
  if constexpr (A == Activation::silu) return x * sigmoid(x);
  if constexpr (A == Activation::tanh) return tanh(x);
  if constexpr (A == Activation::sigmoid) return sigmoid(x);
  return x;
}

VF activated(Activation a, VF x) {
  switch (a) {
    case Activation::gelu: return activated<Activation::gelu>(x);
    case Activation::gelu_tanh: return activated<Activation::gelu_tanh>(x);
    case Activation::relu: return activated<Activation::relu>(x);
    case Activation::silu: return activated<Activation::silu>(x);
    case Activation::tanh: return activated<Activation::tanh>(x);
    case Activation::sigmoid: return activated<Activation::sigmoid>(x);
    case Activation::identity: break;
  }
  return x;
}

void activate(Activation a, float* x, std::size_t count) {
  std::size_t i = 0;
  for (; i + L <= count; i += L) store(x + i, activated(a, load(x + i)));
  if (i < count) {
    float last[L] = {};
    memcpy(last, x + i, (count - i) * sizeof(float));
    store(last, activated(a, load(last)));
    memcpy(x + i, last, (count - i) * sizeof(float));
  }
}

// --- products ---------------------------------------------------------------------------------------

struct DotF32 {
  using V = VF;
  static RUNOFF_INLINE V broadcast(const char* p) { return splat(*reinterpret_cast<const Floatu*>(p)); }
  static RUNOFF_INLINE V read(const char* p) { return *reinterpret_cast<const VFu*>(p); }
  static RUNOFF_INLINE V mac(V acc, V a, V b) { return acc + a * b; }
};

struct DotInt {
  using V = VI;
  static RUNOFF_INLINE V broadcast(const char* p) { return splat(*reinterpret_cast<const Int32u*>(p)); }
  static RUNOFF_INLINE V read(const char* p) { return *reinterpret_cast<const VIu*>(p); }
};

struct DotI16 : DotInt {
  static RUNOFF_INLINE V mac(V acc, V a, V b) { return dot_i16(acc, a, b); }
};

struct DotI8 : DotInt {
  static RUNOFF_INLINE V mac(V acc, V a, V b) { return dot_i8(acc, a, b); }
};

// out[m][n] = sum over `steps` groups of a row's group times a panel's group. Four bytes an element everywhere.
// Kept out of line: inside a larger function gcc 12 spills the accumulators.
template <class Dot, int M, int P>
__attribute__((noinline)) void tile(const char* a, std::ptrdiff_t a_stride, const char* b, std::ptrdiff_t panel_bytes,
                                    int steps, void* out, std::ptrdiff_t out_bytes) {
  using V = typename Dot::V;
  typedef V Vu __attribute__((aligned(1), may_alias));
  V acc[M][P * kVectors];
  RUNOFF_UNROLL for (int m = 0; m < M; ++m) {
    RUNOFF_UNROLL for (int v = 0; v < P * kVectors; ++v) acc[m][v] = V{};
  }
  for (int k = 0; k < steps; ++k) {
    V bv[P * kVectors];
    RUNOFF_UNROLL for (int p = 0; p < P; ++p) {
      RUNOFF_UNROLL for (int v = 0; v < kVectors; ++v) {
        bv[p * kVectors + v] = Dot::read(b + p * panel_bytes + v * 4 * L);
      }
    }
    RUNOFF_UNROLL for (int m = 0; m < M; ++m) {
      const V av = Dot::broadcast(a + m * a_stride);
      RUNOFF_UNROLL for (int v = 0; v < P * kVectors; ++v) acc[m][v] = Dot::mac(acc[m][v], av, bv[v]);
    }
    a += 4;
    b += 4 * kPanel;
  }
  char* o = static_cast<char*>(out);
  RUNOFF_UNROLL for (int m = 0; m < M; ++m) {
    RUNOFF_UNROLL for (int v = 0; v < P * kVectors; ++v) {
      *reinterpret_cast<Vu*>(o + m * out_bytes + v * 4 * L) = acc[m][v];
    }
  }
}

using TileFn = void (*)(const char*, std::ptrdiff_t, const char*, std::ptrdiff_t, int, void*, std::ptrdiff_t);

template <class Dot, int P>
TileFn tile_of_rows(int rows) {
  static_assert(RUNOFF_ROWS <= 6, "one line below for each number of rows");
  switch (rows) {
    case 1: return tile<Dot, 1, P>;
    case 2: return tile<Dot, 2, P>;
    case 3: return tile<Dot, 3, P>;
#if RUNOFF_ROWS > 3
    case 4: return tile<Dot, 4, P>;
    case 5: return tile<Dot, 5, P>;
    case 6: return tile<Dot, 6, P>;
#endif
  }
  return nullptr;
}

template <class Dot>
TileFn tile_of(int rows, [[maybe_unused]] int panels) {
#if RUNOFF_PANELS >= 4
  if (panels == 4) return tile_of_rows<Dot, 4>(rows);
#endif
#if RUNOFF_PANELS >= 2
  if (panels == 2) return tile_of_rows<Dot, 2>(rows);
#endif
  return tile_of_rows<Dot, 1>(rows);
}

// The widest tile that fits into `left` panels.
RUNOFF_INLINE int panels_at_once(int left) {
  if (RUNOFF_PANELS >= 4 && left >= 4) return 4;
  if (RUNOFF_PANELS >= 2 && left >= 2) return 2;
  return 1;
}

constexpr int kTileFloats = RUNOFF_ROWS * RUNOFF_PANELS * kPanel;

// Sums of integers -> values, in place; fp32 values only get their bias.
template <bool is_integer>
RUNOFF_INLINE void finish(const Linear& w, const RowUnit* units, int rows, int first_output, int width, float* c) {
  for (int r = 0; r < rows; ++r) {
    float* row = c + r * width;
    for (int n = 0; n < width; n += L) {
      VF value = load(row + n);
      if constexpr (is_integer) {
        VI total = bits_to_int(value);
        if (RUNOFF_BYTE_FORM != ByteForm::s16s16 && w.kind == Kind::i8) {
          total -= units[r].zero * *reinterpret_cast<const VIu*>(w.sums + first_output + n);
        }
        value = __builtin_convertvector(total, VF) * (units[r].scale * load(w.scales + first_output + n));
      }
      if (w.bias) value += load(w.bias + first_output + n);
      store(row + n, value);
    }
  }
}

template <Activation A>
RUNOFF_INLINE void put_activated(const Epilogue& e, int row, int rows, int panel, int width, const float* c) {
  const bool is_glu = e.form == Epilogue::Form::glu;
  for (int r = 0; r < rows; ++r) {
    const float* values = c + r * width;
    float* out = e.out + (row + r) * e.stride;
    if (is_glu) {
      out += panel / 2 * kPanel;
      for (int n = 0; n < width; n += 2 * kPanel, out += kPanel) {
        RUNOFF_UNROLL for (int v = 0; v < kPanel; v += L) {
          store(out + v, activated<A>(load(values + n + v)) * load(values + n + kPanel + v));
        }
      }
    } else {
      out += panel * kPanel;
      for (int n = 0; n < width; n += L) store(out + n, activated<A>(load(values + n)));
    }
  }
}

// Turns each panel's pairs (j, j + 8) by the angle of the row's position.
RUNOFF_INLINE void put_rotated(const Epilogue& e, int row, int rows, int panel, int width, const float* c) {
  typedef float V8 __attribute__((vector_size(32), may_alias, aligned(1)));
  const int panels_per_head = e.half / 8;
  for (int r = 0; r < rows; ++r) {
    const std::ptrdiff_t angles = static_cast<std::ptrdiff_t>(e.positions[row + r]) * e.half;
    float* out = e.out + (row + r) * e.stride + panel * kPanel;
    const float* values = c + r * width;
    for (int n = 0; n < width; n += kPanel) {
      const int this_panel = panel + n / kPanel;
      const V8 first = *reinterpret_cast<const V8*>(values + n), second = *reinterpret_cast<const V8*>(values + n + 8);
      V8& low = *reinterpret_cast<V8*>(out + n);
      V8& high = *reinterpret_cast<V8*>(out + n + 8);
      if (this_panel * kPanel < e.rotated) {
        const std::ptrdiff_t at = angles + this_panel % panels_per_head * 8;
        const V8 cosine = *reinterpret_cast<const V8*>(e.cosines + at), sine = *reinterpret_cast<const V8*>(e.sines + at);
        low = first * cosine - second * sine;
        high = second * cosine + first * sine;
      } else {
        low = first;
        high = second;
      }
    }
  }
}

RUNOFF_INLINE void put(const Epilogue& e, int row, int rows, int panel, int width, const float* c) {
  switch (e.form) {
    case Epilogue::Form::rotate: return put_rotated(e, row, rows, panel, width, c);
    case Epilogue::Form::glu:
    case Epilogue::Form::act:
      switch (e.activation) {
        case Activation::gelu: return put_activated<Activation::gelu>(e, row, rows, panel, width, c);
        case Activation::gelu_tanh: return put_activated<Activation::gelu_tanh>(e, row, rows, panel, width, c);
        case Activation::relu: return put_activated<Activation::relu>(e, row, rows, panel, width, c);
        case Activation::silu: return put_activated<Activation::silu>(e, row, rows, panel, width, c);
        case Activation::tanh: return put_activated<Activation::tanh>(e, row, rows, panel, width, c);
        case Activation::sigmoid: return put_activated<Activation::sigmoid>(e, row, rows, panel, width, c);
        case Activation::identity: return put_activated<Activation::identity>(e, row, rows, panel, width, c);
      }
      return;
    case Epilogue::Form::store:
    case Epilogue::Form::add: break;
  }
  const bool adds = e.form == Epilogue::Form::add;
  for (int r = 0; r < rows; ++r) {
    float* out = e.out + (row + r) * e.stride + panel * kPanel;
    for (int n = 0; n < width; n += L) {
      const VF value = load(c + r * width + n);
      store(out + n, adds ? load(out + n) + value : value);
    }
  }
}

template <class Dot, bool is_integer>
void product(const Linear& w, int group, const Rows& a, int rows, const Epilogue& e) {
  const int steps = (w.inputs + group - 1) / group;
  const std::ptrdiff_t panel_bytes = static_cast<std::ptrdiff_t>(steps) * 4 * kPanel;
  const int pair = e.form == Epilogue::Form::glu ? 2 : 1;  // glu needs a value panel and its gate together
  alignas(64) float c[RUNOFF_ROWS * (RUNOFF_PANELS > 2 ? RUNOFF_PANELS : 2) * kPanel];
  for (int panel = e.first_panel; panel < e.last_panel;) {
    int panels = panels_at_once(e.last_panel - panel);
    const char* b = static_cast<const char*>(w.panels) + panel * panel_bytes;
    const int together = panels < pair ? pair : panels;
    const int width = together * kPanel;
    for (int row = 0; row < rows; row += RUNOFF_ROWS) {
      const int count = rows - row < RUNOFF_ROWS ? rows - row : RUNOFF_ROWS;
      const TileFn compute = tile_of<Dot>(count, panels);
      const char* from = static_cast<const char*>(a.data) + row * a.stride;
      for (int p = 0; p < together; p += panels) {
        compute(from, a.stride, b + p * panel_bytes, panel_bytes, steps, c + p * kPanel, width * 4);
      }
      finish<is_integer>(w, a.units + row, count, panel * kPanel, width, c);
      put(e, row, count, panel, width, c);
    }
    panel += together;
  }
}

void linear(const Linear& w, const Rows& a, int rows, const Epilogue& e) {
  switch (w.kind) {
    case Kind::f32: return product<DotF32, false>(w, 1, a, rows, e);
    case Kind::i16: return product<DotI16, true>(w, 2, a, rows, e);
    case Kind::i8:
      if (RUNOFF_BYTE_FORM == ByteForm::s16s16) return product<DotI16, true>(w, 2, a, rows, e);
      return product<DotI8, true>(w, 4, a, rows, e);
  }
}

// As if the compiler could not know what a register holds: else it would multiply once and add that again and again.
template <class V>
RUNOFF_INLINE void forget(V& v) {
#if defined(__x86_64__) && !defined(RUNOFF_EMULATE)  // emulated vectors fit no register
  __asm__ volatile("" : "+x"(v));
#elif defined(__aarch64__) && !defined(RUNOFF_EMULATE)
  __asm__ volatile("" : "+w"(v));
#else
  __asm__ volatile("" : "+m"(v));
#endif
}

template <class Dot>
std::int64_t saturate_by(int group, std::int64_t steps) {
  using V = typename Dot::V;
  constexpr int kLeft = L == 16 ? 6 : 4;  // with 2 right operands: enough sums under way, few enough registers
  V left[kLeft], right[2] = {}, sums[kLeft][2] = {};
  for (V& v : left) forget(v = V{});
  for (std::int64_t step = 0; step < steps; ++step) {
    for (V& v : right) forget(v);
    RUNOFF_UNROLL for (int i = 0; i < kLeft; ++i) {
      RUNOFF_UNROLL for (int j = 0; j < 2; ++j) sums[i][j] = Dot::mac(sums[i][j], left[i], right[j]);
    }
  }
  for (auto& row : sums) {
    for (V& v : row) forget(v);
  }
  return steps * kLeft * 2 * L * group;
}

std::int64_t saturate(Kind kind, std::int64_t steps) {
  if (kind == Kind::f32) return saturate_by<DotF32>(1, steps);
  if (kind == Kind::i16 || RUNOFF_BYTE_FORM == ByteForm::s16s16) return saturate_by<DotI16>(2, steps);
  return saturate_by<DotI8>(4, steps);
}

// --- rows -------------------------------------------------------------------------------------------

// How far a row reaches above and below 0, and its sum of squares.
RUNOFF_INLINE void measure(const float* x, int columns, float* above, float* below, float* squares) {
  VF highest = VF{}, lowest = VF{}, total = VF{};
  int i = 0;
  for (; i + L <= columns; i += L) {
    const VF v = load(x + i);
    highest = larger(v, highest);
    lowest = larger(-v, lowest);
    total += v * v;
  }
  *above = largest(highest);
  *below = largest(lowest);
  *squares = sum(total);
  for (; i < columns; ++i) {
    if (x[i] > *above) *above = x[i];
    if (-x[i] > *below) *below = -x[i];
    *squares += x[i] * x[i];
  }
}

RUNOFF_INLINE VI at_most(VI v, std::int32_t limit) { return v < limit ? v : limit - VI{}; }
RUNOFF_INLINE std::int32_t at_most(std::int32_t v, std::int32_t limit) { return v < limit ? v : limit; }

RUNOFF_INLINE std::int32_t nearest(float x) {
  const float shifted = x + kRounder;
  std::int32_t bits;
  memcpy(&bits, &shifted, 4);
  return bits - kRounderBits;
}

// The lanes as int16 or as bytes, which hold them. What gcc 12 makes of a conversion for AVX2 takes 2.6 times as long to
// quantise bytes.
#if defined(__AVX2__) && RUNOFF_LANES == 8
RUNOFF_INLINE __m128i words_of(VI v) {
  const __m256i wide = reinterpret_cast<__m256i>(v);
  return _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
}
#endif

RUNOFF_INLINE void store_words(std::int16_t* out, VI v) {
#if defined(__AVX2__) && RUNOFF_LANES == 8
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), words_of(v));
#else
  *reinterpret_cast<VSu*>(out) = __builtin_convertvector(v, VS);
#endif
}

RUNOFF_INLINE void store_bytes(char* out, VI v) {
#if defined(__AVX2__) && RUNOFF_LANES == 8
  static_assert(RUNOFF_BYTE_FORM == ByteForm::u8s8, "packed as unsigned bytes");
  const __m128i words = words_of(v);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
#else
  *reinterpret_cast<VBu*>(out) = __builtin_convertvector(v, VB);
#endif
}

// See packing.h: with weights of norm at most kWeightNorm, a row of at most this norm cannot overflow a sum.
constexpr float kRowNorm = 65500.0f;

void quantise_row(Kind kind, const float* x, int columns, char* out, RowUnit* row) {
  float above, below, squares, unit = 1.0f;
  measure(x, columns, &above, &below, &squares);
  const float peak = above > below ? above : below;
  // Of very large or small numbers (1e19, 1e-20) the squares leave fp32's range; in units of the peak they do not.
  if (!(squares > 1e-24f && squares < 1e36f) && peak > 1e-36f) {
    unit = peak;
    squares = 0.0f;
    for (int i = 0; i < columns; ++i) squares += (x[i] / peak) * (x[i] / peak);
  }
  float factor;
  const bool is_i16 = kind == Kind::i16;
  if (is_i16) {
    // Rounding may lengthen the row by half a unit in every column.
    const float norm = sqrtf(squares);
    const float by_norm = (kRowNorm - 0.5f * sqrtf(static_cast<float>(columns))) / norm / unit;
    const float by_peak = 32767.0f / peak;
    factor = by_norm < by_peak ? by_norm : by_peak;
  } else {
    factor = 127.5f / (0.5f * above + 0.5f * below);  // halves, because the whole may overflow
  }
  // A row of zeros, or of numbers so small that the factor overflows, stays zeros. What is not finite must not
  // vanish in the integers: it makes the scale, and so every output of the row, not a number.
  if (!(factor <= 3e38f)) factor = 0.0f;
  row->scale = (factor > 0.0f ? 1.0f / factor : 0.0f) + 0.0f * squares;
  row->zero = 0;
  const bool is_wide = is_i16 || RUNOFF_BYTE_FORM == ByteForm::s16s16;
  // Of 256 bytes, `least` lie below zero. Where both ends of the row fall between two of them, both would be rounded
  // outwards, and a byte more were needed: the upper end is rounded inwards then, by the same half.
  const std::int32_t least = below * factor < 256.0f ? nearest(below * factor) : 0;  // 0 also if not a number
  const std::int32_t most = is_i16 ? 32767 : 255 - least;
  const std::int32_t offset = RUNOFF_BYTE_FORM == ByteForm::u8s8 ? least : least - 128;
  if (!is_wide) row->zero = offset;
  int i = 0;
  if (is_wide) {
    std::int16_t* wide = reinterpret_cast<std::int16_t*>(out);
    for (; i + L <= columns; i += L) {
      store_words(wide + i, at_most(nearest(load(x + i) * factor), most));
    }
    for (; i < columns; ++i) wide[i] = static_cast<std::int16_t>(at_most(nearest(x[i] * factor), most));
    if (columns % 2) wide[columns] = 0;
  } else {
    for (; i + L <= columns; i += L) {
      store_bytes(out + i, at_most(nearest(load(x + i) * factor), most) + offset);
    }
    for (; i < columns; ++i) out[i] = static_cast<char>(at_most(nearest(x[i] * factor), most) + offset);
    for (; i % 4; ++i) out[i] = 0;  // their weights are zero
  }
}

void quantise(Kind kind, const float* x, std::ptrdiff_t x_stride, int rows, int columns, void* out,
              std::ptrdiff_t out_stride, RowUnit* units) {
  for (int r = 0; r < rows; ++r) {
    char* to = static_cast<char*>(out) + r * out_stride;
    const float* from = x + r * x_stride;
    if (kind == Kind::f32) {
      memcpy(to, from, columns * sizeof(float));
    } else {
      quantise_row(kind, from, columns, to, units + r);
    }
  }
}

void norm(const float* x, std::ptrdiff_t x_stride, int rows, int columns, const float* weight, const float* bias,
          float eps, float* y, std::ptrdiff_t y_stride) {
  const int whole = columns - columns % L;
  for (int r = 0; r < rows; ++r) {
    const float* from = x + r * x_stride;
    float* to = y + r * y_stride;
    VF total = VF{};
    for (int i = 0; i < whole; i += L) total += load(from + i);
    float mean = sum(total);
    for (int i = whole; i < columns; ++i) mean += from[i];
    mean /= static_cast<float>(columns);
    VF spread = VF{};
    for (int i = 0; i < whole; i += L) {
      const VF d = load(from + i) - mean;
      spread += d * d;
    }
    float variance = sum(spread);
    for (int i = whole; i < columns; ++i) variance += (from[i] - mean) * (from[i] - mean);
    variance /= static_cast<float>(columns);
    const float factor = 1.0f / sqrtf(variance + eps);
    for (int i = 0; i < whole; i += L) {
      VF value = (load(from + i) - mean) * factor * load(weight + i);
      if (bias) value += load(bias + i);
      store(to + i, value);
    }
    for (int i = whole; i < columns; ++i) {
      to[i] = (from[i] - mean) * factor * weight[i] + (bias ? bias[i] : 0.0f);
    }
  }
}

void accumulate(float* y, const float* x, float weight, int count) {
  int i = 0;
  for (; i + L <= count; i += L) store(y + i, load(y + i) + load(x + i) * weight);
  for (; i < count; ++i) y[i] += x[i] * weight;
}

// --- attention --------------------------------------------------------------------------------------

// Keys -> panels [keys/16][head_size][16], zeros behind the last key; values -> [head_size/16][keys][16].
void pack_keys(const Attention& a, int base, int end, float* panels) {
  for (int first = base; first < end; first += kPanel) {
    const int count = end - first < kPanel ? end - first : kPanel;
    const float* from = a.key + first * a.stride;
    for (int d = 0; d < a.head_size; d += kPanel) {
      float square[kPanel][kPanel];
      for (int j = 0; j < kPanel; ++j) {
        if (j < count) {
          memcpy(square[j], from + j * a.stride + d, sizeof square[j]);
        } else {
          memset(square[j], 0, sizeof square[j]);
        }
      }
      for (int i = 0; i < kPanel; ++i, panels += kPanel) {
        for (int j = 0; j < kPanel; ++j) panels[j] = square[j][i];
      }
    }
  }
}

void pack_values(const Attention& a, int base, int end, float* panels) {
  for (int d = 0; d < a.head_size; d += kPanel) {
    for (int j = base; j < end; ++j, panels += kPanel) {
      memcpy(panels, a.value + j * a.stride + d, kPanel * sizeof(float));
    }
  }
}

// Scores [0, keys) of a row -> exp2(score - largest), zeros outside [low, high); returns their sum.
RUNOFF_INLINE float weigh(float* scores, int keys, int low, int high) {
  for (int j = 0; j < low; ++j) scores[j] = -INFINITY;
  for (int j = high; j < keys; ++j) scores[j] = -INFINITY;
  VF best = load(scores);
  for (int j = L; j < keys; j += L) best = larger(load(scores + j), best);
  const float top = largest(best);
  VF total = VF{};
  for (int j = 0; j < keys; j += L) {
    const VF weight = exp2(load(scores + j) - top);
    total += weight;
    store(scores + j, weight);
  }
  return sum(total);
}

void product_f32(const float* a, std::ptrdiff_t a_stride, int rows, const float* panels, int panel_count, int steps,
                 float* out, std::ptrdiff_t out_stride) {
  const std::ptrdiff_t panel_bytes = static_cast<std::ptrdiff_t>(steps) * 4 * kPanel;
  for (int panel = 0; panel < panel_count;) {
    const int together = panels_at_once(panel_count - panel);
    for (int row = 0; row < rows; row += RUNOFF_ROWS) {
      const int count = rows - row < RUNOFF_ROWS ? rows - row : RUNOFF_ROWS;
      tile_of<DotF32>(count, together)(reinterpret_cast<const char*>(a + row * a_stride), a_stride * 4,
                                       reinterpret_cast<const char*>(panels) + panel * panel_bytes, panel_bytes, steps,
                                       out + row * out_stride + panel * kPanel, out_stride * 4);
    }
    panel += together;
  }
}

void attend(const Attention& a) {
  const int window = a.window < 0 ? a.length : a.window;
  const auto first_key = [&](int query) { return query > window ? (query - window) / kPanel * kPanel : 0; };
  const auto end_key = [&](int query) { return a.length - query > window + 1 ? query + window + 1 : a.length; };
  const int base = first_key(a.first), end = end_key(a.last - 1);
  const int all = (end - base + kPanel - 1) / kPanel * kPanel;
  float* keys = a.scratch;
  float* values = keys + static_cast<std::size_t>(all) * a.head_size;
  float* scores = values + static_cast<std::size_t>(all) * a.head_size;
  pack_keys(a, base, end, keys);
  pack_values(a, base, end, values);
  const int blocks = a.head_size / kPanel;
  for (int query = a.first; query < a.last; query += kQueries) {
    const int rows = a.last - query < kQueries ? a.last - query : kQueries;
    const int low = first_key(query), high = end_key(query + rows - 1);
    const int panels = (high - low + kPanel - 1) / kPanel, width = panels * kPanel;
    float* mixed = scores + static_cast<std::size_t>(kQueries) * width;
    product_f32(a.query + query * a.stride, a.stride, rows, keys + static_cast<std::ptrdiff_t>(low - base) * a.head_size,
                panels, a.head_size, scores, width);
    float inverse[kQueries];
    for (int r = 0; r < rows; ++r) {
      const int from = query + r > window ? query + r - window : 0;
      inverse[r] = 1.0f / weigh(scores + r * width, width, from - low, end_key(query + r) - low);
    }
    for (int d = 0; d < blocks; ++d) {
      const float* panel = values + (static_cast<std::ptrdiff_t>(d) * (end - base) + (low - base)) * kPanel;
      product_f32(scores, width, rows, panel, 1, high - low, mixed + d * kPanel, a.head_size);
    }
    for (int r = 0; r < rows; ++r) {
      float* out = a.out + (query + r) * a.out_stride;
      for (int i = 0; i < a.head_size; i += L) store(out + i, load(mixed + r * a.head_size + i) * inverse[r]);
    }
  }
}

void attend_one(const Attention& a) {
  const int query = a.first;
  const int window = a.window < 0 ? a.length : a.window;
  const int low = query > window ? query - window : 0;
  const int high = a.length - query > window + 1 ? query + window + 1 : a.length;
  const int width = (high - low + kPanel - 1) / kPanel * kPanel;
  const float* q = a.query + query * a.stride;
  float* scores = a.scratch;
  for (int j = low; j < high; ++j) {
    VF total = VF{};
    for (int i = 0; i < a.head_size; i += L) total += load(q + i) * load(a.key + j * a.stride + i);
    scores[j - low] = sum(total);
  }
  const float inverse = 1.0f / weigh(scores, width, 0, high - low);
  float* out = a.out;  // of the query itself: rows of queries are not rows of keys here
  memset(out, 0, a.head_size * sizeof(float));
  for (int j = low; j < high; ++j) accumulate(out, a.value + j * a.stride, scores[j - low] * inverse, a.head_size);
}

}  // namespace

const Kernels* RUNOFF_TABLE() {
  static const Kernels table = {RUNOFF_NAME, RUNOFF_ROWS, RUNOFF_BYTE_FORM, RUNOFF_FAST_I16, RUNOFF_FAST_I8,
                                linear,      quantise,    norm,             activate,        attend,
                                attend_one,  accumulate, saturate};
  return &table;
}

}  // namespace runoff
