// Integer dot products of the lanes of a vector, by whichever instruction the including file was compiled for.
// Included inside the unnamed namespace of kernels_impl.h.

#if defined(RUNOFF_EMULATE)
// What the instructions below mean, lane by lane: lets a machine without them run the kernels built on them.
RUNOFF_INLINE VI dot_i16(VI acc, VI a, VI b) {
  for (int lane = 0; lane < L; ++lane) {
    const std::uint32_t x = a[lane], y = b[lane];
    std::uint32_t total = acc[lane];
    for (int i = 0; i < 32; i += 16) {
      total += static_cast<std::int16_t>(x >> i) * static_cast<std::int16_t>(y >> i);
    }
    acc[lane] = static_cast<std::int32_t>(total);
  }
  return acc;
}
RUNOFF_INLINE VI dot_i8(VI acc, VI a, VI b) {
  for (int lane = 0; lane < L; ++lane) {
    const std::uint32_t x = a[lane], y = b[lane];
    std::uint32_t total = acc[lane];
    for (int i = 0; i < 32; i += 8) {
      const int left = RUNOFF_BYTE_FORM == ByteForm::u8s8 ? static_cast<int>(static_cast<std::uint8_t>(x >> i))
                                                          : static_cast<int>(static_cast<std::int8_t>(x >> i));
      total += left * static_cast<std::int8_t>(y >> i);
    }
    acc[lane] = static_cast<std::int32_t>(total);
  }
  return acc;
}

#elif defined(__AVX512VNNI__) && RUNOFF_LANES == 16
RUNOFF_INLINE VI dot_i16(VI acc, VI a, VI b) {
  return reinterpret_cast<VI>(_mm512_dpwssd_epi32(reinterpret_cast<__m512i>(acc), reinterpret_cast<__m512i>(a),
                                                  reinterpret_cast<__m512i>(b)));
}
RUNOFF_INLINE VI dot_i8(VI acc, VI a, VI b) {
  return reinterpret_cast<VI>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(acc), reinterpret_cast<__m512i>(a),
                                                  reinterpret_cast<__m512i>(b)));
}

#elif defined(__AVX512BW__) && RUNOFF_LANES == 16
RUNOFF_INLINE VI dot_i16(VI acc, VI a, VI b) {
  return acc + reinterpret_cast<VI>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
RUNOFF_INLINE VI dot_i8(VI acc, VI a, VI b) {
  // Neighbours' products are added in int16, which saturates; packing.h keeps them below.
  const __m512i pairs = _mm512_maddubs_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
  return acc + reinterpret_cast<VI>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

#elif defined(__AVXVNNI__) && RUNOFF_LANES == 8
RUNOFF_INLINE VI dot_i16(VI acc, VI a, VI b) {
  return reinterpret_cast<VI>(_mm256_dpwssd_avx_epi32(reinterpret_cast<__m256i>(acc), reinterpret_cast<__m256i>(a),
                                                      reinterpret_cast<__m256i>(b)));
}
RUNOFF_INLINE VI dot_i8(VI acc, VI a, VI b) {
  return reinterpret_cast<VI>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(acc), reinterpret_cast<__m256i>(a),
                                                      reinterpret_cast<__m256i>(b)));
}

#elif defined(__AVX2__) && RUNOFF_LANES == 8
RUNOFF_INLINE VI dot_i16(VI acc, VI a, VI b) {
  return acc + reinterpret_cast<VI>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
RUNOFF_INLINE VI dot_i8(VI acc, VI a, VI b) {
  // Neighbours' products are added in int16, which saturates; packing.h keeps them below.
  const __m256i pairs = _mm256_maddubs_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b));
  return acc + reinterpret_cast<VI>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#elif defined(__SSE2__) && RUNOFF_LANES == 4
RUNOFF_INLINE VI dot_i16(VI acc, VI a, VI b) {
  return acc + reinterpret_cast<VI>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
RUNOFF_INLINE VI dot_i8(VI acc, VI, VI) { return acc; }  // never called: ByteForm::s16s16

#elif defined(__ARM_NEON) && RUNOFF_LANES == 4
RUNOFF_INLINE VI dot_i16(VI acc, VI a, VI b) {
  const int16x8_t x = reinterpret_cast<int16x8_t>(a), y = reinterpret_cast<int16x8_t>(b);
  const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y)), high = vmull_high_s16(x, y);
  return acc + reinterpret_cast<VI>(vpaddq_s32(low, high));
}
#if defined(__ARM_FEATURE_DOTPROD)
RUNOFF_INLINE VI dot_i8(VI acc, VI a, VI b) {
  return reinterpret_cast<VI>(
      vdotq_s32(reinterpret_cast<int32x4_t>(acc), reinterpret_cast<int8x16_t>(a), reinterpret_cast<int8x16_t>(b)));
}
#else
RUNOFF_INLINE VI dot_i8(VI acc, VI a, VI b) {
  const int8x16_t x = reinterpret_cast<int8x16_t>(a), y = reinterpret_cast<int8x16_t>(b);
  const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(y)), high = vmull_high_s8(x, y);
  // 127 * 127 * 2 fits an int16, so neighbours may be added before they are widened.
  return reinterpret_cast<VI>(vpadalq_s16(reinterpret_cast<int32x4_t>(acc), vpaddq_s16(low, high)));
}
#endif

#else
// No vector unit that we know: the same by plain loops.
RUNOFF_INLINE VI dot_i16(VI acc, VI a, VI b) {
  const VI low_a = (a << 16) >> 16, low_b = (b << 16) >> 16;
  return acc + low_a * low_b + (a >> 16) * (b >> 16);
}
RUNOFF_INLINE VI dot_i8(VI acc, VI, VI) { return acc; }  // never called: ByteForm::s16s16
#endif
