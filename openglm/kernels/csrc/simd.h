// Eight and sixteen lanes on any processor. Arithmetic is GCC's and Clang's vector extension, which they lower to what
// the flags of the file allow; only what the language lacks (fp16, byte products) is written per instruction set.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef int8_t b8 __attribute__((vector_size(8)));

#define INLINE static inline __attribute__((always_inline))

template <class T>
INLINE T load(const void* p) {
  T x;
  memcpy(&x, p, sizeof x);
  return x;
}
template <class T>
INLINE void store(void* p, T x) {
  memcpy(p, &x, sizeof x);
}
INLINE f8 all(float x) { return f8{x, x, x, x, x, x, x, x}; }
INLINE i8 all(int32_t x) { return i8{x, x, x, x, x, x, x, x}; }
INLINE f8 bigger(f8 a, f8 b) { return a > b ? a : b; }
INLINE f8 absolute(f8 x) { return (f8)((i8)x & all(0x7fffffff)); }
INLINE f8 to_float(i8 x) { return __builtin_convertvector(x, f8); }
INLINE f8 to_float(b8 x) { return to_float(__builtin_convertvector(x, i8)); }
INLINE float sum(f8 x) { return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7])); }
INLINE float biggest(f8 x) {
  float m = x[0];
  for (int i = 1; i < 8; i++) m = x[i] > m ? x[i] : m;
  return m;
}

// Nearest whole number, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves it in the low bits of the mantissa.
INLINE i8 nearest(f8 x) { return (i8)(x + all(12582912.f)) - all(0x4b400000); }

// e^x to 2 units in the last place: 2^n times a polynomial of the rest (Cephes). Below -87 about 1e-38; NaN stays NaN.
INLINE f8 exponential(f8 x) {
  x = x < all(-87.f) ? all(-87.f) : x;
  x = x > all(88.f) ? all(88.f) : x;
  i8 n = nearest(x * all(1.44269504f));
  f8 r = x - to_float(n) * all(0.693359375f) - to_float(n) * all(-2.12194440e-4f);
  f8 p = all(1.9875691500e-4f);
  p = p * r + all(1.3981999507e-3f);
  p = p * r + all(8.3334519073e-3f);
  p = p * r + all(4.1665795894e-2f);
  p = p * r + all(1.6666665459e-1f);
  p = p * r + all(5.0000001201e-1f);
  return (p * r * r + r + all(1.f)) * (f8)((n + all(127)) << 23);
}

template <class T, class U>
INLINE T bits(U x) {
  return load<T>(&x);
}
INLINE float from_half(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
  if (rest >= 0x7c00) return bits<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // Half's exponent, read as a float's, is 112 too small; the product also makes subnormal numbers right.
  return bits<float>(sign | bits<uint32_t>(bits<float>(rest << 13) * 0x1p112f));
}

#if defined(__AVX2__)
INLINE f8 load_half(const uint16_t* p) { return (f8)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
INLINE uint16_t to_half(float x) { return (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(x), 0), 0); }
INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
#elif defined(__ARM_NEON)
INLINE f8 load_half(const uint16_t* p) {
  float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(p));
  float32x4_t part[2] = {vcvt_f32_f16(vget_low_f16(h)), vcvt_f32_f16(vget_high_f16(h))};
  return load<f8>(part);
}
INLINE uint16_t to_half(float x) { return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x))), 0); }
INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
#else
INLINE f8 load_half(const uint16_t* p) {
  f8 x;
  for (int i = 0; i < 8; i++) x[i] = from_half(p[i]);
  return x;
}
INLINE uint16_t to_half(float x) {
  const uint32_t all = bits<uint32_t>(x), sign = all >> 16 & 0x8000, rest = all & 0x7fffffff;
  if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (rest < 0x38800000)
    return (uint16_t)(sign | (bits<uint32_t>(bits<float>(rest) + 0.5f) -
                              0x3f000000));  // subnormal: a sum with 0.5 rounds at 2^-24
  return (uint16_t)(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
}
INLINE void prefetch(const void*) {}
#endif

INLINE f8 load8(const float* p) { return load<f8>(p); }
INLINE f8 load8(const uint16_t* p) { return load_half(p); }
INLINE f8 load8(const int8_t* p) { return to_float(load<b8>(p)); }

// Sixteen lanes, one for each row of a panel (or for each token of a block of the cache): one vector where there are
// vectors of 64 bytes, else two.
#if defined(__AVX512F__)
typedef float Lanes __attribute__((vector_size(64)));
INLINE Lanes all16(float x) { return (Lanes)_mm512_set1_ps(x); }
INLINE Lanes load16(const float* p) { return load<Lanes>(p); }
INLINE Lanes load16(const uint16_t* p) { return (Lanes)_mm512_cvtph_ps(load<__m256i>(p)); }
INLINE Lanes load16(const int8_t* p) { return (Lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(p))); }
INLINE f8 low_eight(Lanes x) { return (f8)_mm512_castps512_ps256((__m512)x); }
INLINE f8 high_eight(Lanes x) { return (f8)_mm512_extractf64x4_pd((__m512d)x, 1); }
#else
struct Lanes {
  f8 part[2];
};
INLINE Lanes operator+(Lanes a, Lanes b) { return {{a.part[0] + b.part[0], a.part[1] + b.part[1]}}; }
INLINE Lanes operator*(Lanes a, Lanes b) { return {{a.part[0] * b.part[0], a.part[1] * b.part[1]}}; }
INLINE Lanes& operator+=(Lanes& a, Lanes b) { return a = a + b; }
INLINE Lanes all16(float x) { return {{all(x), all(x)}}; }
template <class E>
INLINE Lanes load16(const E* p) {
  return {{load8(p), load8(p + 8)}};
}
INLINE f8 low_eight(Lanes x) { return x.part[0]; }
INLINE f8 high_eight(Lanes x) { return x.part[1]; }
#endif

// Products of weights and activations: the 16 rows of a panel x 4 columns of bytes against the same 4 columns of one
// token, summed into one accumulator a row. Small: the weights are 0..15 and 8 is subtracted from each by starting from
// `correction`, two int16 of -8 * (sum of columns 0 and 1 mod 4, of columns 2 and 3). Wide: the weights are -128..127.
// TILE: tokens that share one pass over a panel, as many as there are registers for their sums.
#if defined(__AVX512VNNI__)
enum { TILE = 8 };
typedef __m512i Weights;
typedef __m512i Sum;
typedef __m512i WideSum;
struct Wide {
  __m512i size;
  __mmask64 negative;
};
INLINE __m512i four(const int8_t* x) { return _mm512_set1_epi32(load<int32_t>(x)); }
INLINE Weights low_half(const uint8_t* p) { return _mm512_and_si512(load<__m512i>(p), _mm512_set1_epi8(15)); }
INLINE Weights high_half(const uint8_t* p) {
  return _mm512_and_si512(_mm512_srli_epi16(load<__m512i>(p), 4), _mm512_set1_epi8(15));
}
INLINE Wide wide(const uint8_t* p) {
  return {_mm512_abs_epi8(load<__m512i>(p)), _mm512_movepi8_mask(load<__m512i>(p))};
}
INLINE Sum start(int32_t correction) { return _mm512_set1_epi32((int16_t)correction + (correction >> 16)); }
INLINE WideSum start_wide() { return _mm512_setzero_si512(); }
INLINE Sum add_small(Sum sum, Weights w, const int8_t* x) { return _mm512_dpbusd_epi32(sum, w, four(x)); }
INLINE WideSum add_wide(WideSum sum, Wide w, const int8_t* x) {
  return _mm512_dpbusd_epi32(sum, w.size, _mm512_mask_sub_epi8(four(x), w.negative, _mm512_setzero_si512(), four(x)));
}
INLINE Lanes finish(Sum sum) { return (Lanes)_mm512_cvtepi32_ps(sum); }
INLINE Lanes finish_wide(WideSum sum) { return finish(sum); }
#elif defined(__AVX2__)
enum { TILE = 4 };
struct Weights {
  __m256i part[2];
};
struct Sum {
  __m256i part[2];
};
typedef Sum WideSum;
struct Wide {
  __m256i size[2], sign[2];
};
INLINE __m256i four(const int8_t* x) { return _mm256_set1_epi32(load<int32_t>(x)); }
INLINE __m256i low(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
INLINE Weights low_half(const uint8_t* p) { return {{low(load<__m256i>(p)), low(load<__m256i>(p + 32))}}; }
INLINE Weights high_half(const uint8_t* p) {
  return {{low(_mm256_srli_epi16(load<__m256i>(p), 4)), low(_mm256_srli_epi16(load<__m256i>(p + 32), 4))}};
}
INLINE Wide wide(const uint8_t* p) {
  return {{_mm256_abs_epi8(load<__m256i>(p)), _mm256_abs_epi8(load<__m256i>(p + 32))},
          {load<__m256i>(p), load<__m256i>(p + 32)}};
}
// A pair of products is at most 2 * 15 * 127, and a block of 64 with its correction at most 32 * 8 * 127 = 32512 a
// lane: int16 is wide enough (sums may wrap on the way, addition is modulo 2^16), so that the accumulator is widened
// only once a block.
INLINE Sum start(int32_t correction) { return {{_mm256_set1_epi32(correction), _mm256_set1_epi32(correction)}}; }
INLINE WideSum start_wide() { return {{_mm256_setzero_si256(), _mm256_setzero_si256()}}; }
INLINE Sum add_small(Sum sum, Weights w, const int8_t* x) {
  for (int i = 0; i < 2; i++) {
    sum.part[i] = _mm256_add_epi16(sum.part[i], _mm256_maddubs_epi16(w.part[i], four(x)));
    asm(""
        : "+x"(sum.part[i]));  // keeps the compiler from adding products to each other first, which takes more
                               // registers than there are
  }
  return sum;
}
INLINE WideSum add_wide(WideSum sum, Wide w, const int8_t* x) {
  for (int i = 0; i < 2; i++) {
    __m256i pairs = _mm256_maddubs_epi16(w.size[i], _mm256_sign_epi8(four(x), w.sign[i]));  // 2 * 128 * 127 fits
    sum.part[i] = _mm256_add_epi32(sum.part[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  return sum;
}
INLINE Lanes finish_wide(WideSum sum) { return {{to_float((i8)sum.part[0]), to_float((i8)sum.part[1])}}; }
INLINE Lanes finish(Sum sum) {
  return finish_wide(
      {{_mm256_madd_epi16(sum.part[0], _mm256_set1_epi16(1)), _mm256_madd_epi16(sum.part[1], _mm256_set1_epi16(1))}});
}
#elif defined(__ARM_NEON)
enum { TILE = 4 };
struct Weights {
  int8x16_t part[4];
};
struct Sum {
  int32x4_t part[4];
};
typedef Weights Wide;
typedef Sum WideSum;
INLINE Weights low_half(const uint8_t* p) {
  Weights w;
  for (int i = 0; i < 4; i++) w.part[i] = vreinterpretq_s8_u8(vandq_u8(vld1q_u8(p + 16 * i), vdupq_n_u8(15)));
  return w;
}
INLINE Weights high_half(const uint8_t* p) {
  Weights w;
  for (int i = 0; i < 4; i++) w.part[i] = vreinterpretq_s8_u8(vshrq_n_u8(vld1q_u8(p + 16 * i), 4));
  return w;
}
INLINE Wide wide(const uint8_t* p) {
  Wide w;
  for (int i = 0; i < 4; i++) w.part[i] = vld1q_s8((const int8_t*)p + 16 * i);
  return w;
}
INLINE Sum start(int32_t correction) {
  int32x4_t c = vdupq_n_s32((int16_t)correction + (correction >> 16));
  return {{c, c, c, c}};
}
INLINE WideSum start_wide() { return start(0); }
INLINE int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, w, x);
#else
  int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_s8(vget_high_s8(w), vget_high_s8(x));
  return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}
INLINE Sum add_small(Sum sum, Weights w, const int8_t* p) {
  int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(load<int32_t>(p)));
  for (int i = 0; i < 4; i++) sum.part[i] = dot(sum.part[i], w.part[i], x);
  return sum;
}
INLINE WideSum add_wide(WideSum sum, Wide w, const int8_t* p) { return add_small(sum, w, p); }
INLINE Lanes finish(Sum sum) { return {{to_float(load<i8>(sum.part)), to_float(load<i8>(sum.part + 2))}}; }
INLINE Lanes finish_wide(WideSum sum) { return finish(sum); }
#else
enum { TILE = 4 };
struct Weights {
  int8_t byte[64];
};
struct Sum {
  i8 part[2];
};
typedef Weights Wide;
typedef Sum WideSum;
INLINE Weights low_half(const uint8_t* p) {
  Weights w;
  for (int i = 0; i < 64; i++) w.byte[i] = (int8_t)(p[i] & 15);
  return w;
}
INLINE Weights high_half(const uint8_t* p) {
  Weights w;
  for (int i = 0; i < 64; i++) w.byte[i] = (int8_t)(p[i] >> 4);
  return w;
}
INLINE Wide wide(const uint8_t* p) { return load<Wide>(p); }
INLINE Sum start(int32_t correction) {
  i8 c = all((int16_t)correction + (correction >> 16));
  return {{c, c}};
}
INLINE WideSum start_wide() { return start(0); }
INLINE Sum add_small(Sum sum, const Weights& w, const int8_t* x) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 4; j++) sum.part[i / 8][i % 8] += w.byte[4 * i + j] * x[j];
  return sum;
}
INLINE WideSum add_wide(WideSum sum, const Wide& w, const int8_t* x) { return add_small(sum, w, x); }
INLINE Lanes finish(Sum sum) { return {{to_float(sum.part[0]), to_float(sum.part[1])}}; }
INLINE Lanes finish_wide(WideSum sum) { return finish(sum); }
#endif

}  // namespace
