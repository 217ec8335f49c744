// Products of weights in panels with the activations of all tokens, and what follows a product at once: bias, residual,
// activation.
#pragma once
#include <math.h>

#include "kernels.h"
#include "simd.h"

namespace {

INLINE f8 sigmoid_times(f8 x, f8 of) { return x / (all(1.f) + exponential(-of)); }
INLINE f8 gelu_tanh(f8 x) { return sigmoid_times(x, all(1.5957691216f) * (x + all(0.044715f) * x * x * x)); }
INLINE f8 gelu(f8 x) {
  f8 y;
  for (int i = 0; i < 8; i++) y[i] = 0.5f * x[i] * (1.f + erff(x[i] * 0.70710678f));
  return y;
}

INLINE void store_some(float* out, f8 y, int count) {
  if (count >= 8)
    store(out, y);
  else if (count > 0)
    memcpy(out, &y, (size_t)count * sizeof(float));
}
INLINE f8 load_some(const float* in, int count) {
  f8 y = all(0.f);
  if (count >= 8) return load8(in);
  if (count > 0) memcpy(&y, in, (size_t)count * sizeof(float));
  return y;
}

// A panel's product with one token.
INLINE void finish_panel(const Linear& l, int panel, int token, Lanes y) {
  f8 a = low_eight(y), b = high_eight(y);
  if (l.added && l.adapters[token])
    a += load8(l.added + token * l.added_width + panel * 16),
        b += load8(l.added + token * l.added_width + panel * 16 + 8);
  if (l.matrix->bias) a += load8(l.matrix->bias + panel * 16), b += load8(l.matrix->bias + panel * 16 + 8);
  float* out = l.out + token * l.out_width;
  if (l.mode == GLM_GEGLU || l.mode == GLM_SWIGLU) {
    store_some(out + panel * 8, (l.mode == GLM_SWIGLU ? sigmoid_times(a, a) : gelu(a)) * b,
               l.matrix->rows / 2 - panel * 8);
    return;
  }
  int row = panel * 16, left = l.matrix->rows - row;
  if (l.mode == GLM_RESIDUAL) {
    const float* residual = l.residual + token * l.residual_width + row;
    a += all(l.scale) * load_some(residual, left), b += all(l.scale) * load_some(residual + 8, left - 8);
  } else if (l.mode == GLM_GELU) {
    a = gelu(a), b = gelu(b);
  } else if (l.mode == GLM_GELU_TANH) {
    a = gelu_tanh(a), b = gelu_tanh(b);
  }
  store_some(out + row, a, left);
  store_some(out + row + 8, b, left - 8);
}

// P panels side by side share what is loaded of the activations: with one, loads are more than products.
template <int T, int P>
void tile_f32(const Linear& l, int panel, int token) {
  const GlmMatrix& m = *l.matrix;
  const int64_t next = 16 * (int64_t)m.columns;
  const float* w = (const float*)panel_of(m, panel);
  const float* x = l.x + token * l.x_width;
  Lanes y[P][T] = {};
  for (int k = 0; k < m.columns; k++, w += 16) {
    Lanes v[P];
    for (int p = 0; p < P; p++) v[p] = load16(w + p * next);
    for (int t = 0; t < T; t++) {
      const Lanes each = all16(x[t * l.x_width + k]);
      for (int p = 0; p < P; p++) y[p][t] += each * v[p];
    }
  }
  for (int p = 0; p < P; p++)
    for (int t = 0; t < T; t++) finish_panel(l, panel + p, token + t, y[p][t]);
}

// One block of columns: 16 scales, then the codes. Adds the block's share of the products to `sum`.
template <int T, int BLOCK>
INLINE void block_q4(const uint8_t* w, const int8_t* x, int64_t stride, const int32_t* corrections, Sum (&sum)[T],
                     int64_t blocks) {
  for (int t = 0; t < T; t++) sum[t] = start(corrections[t * blocks]);
  for (int k = 0; k < BLOCK; k += 8, w += 64) {
    prefetch(w + 2048);
    Weights part = low_half(w);
    for (int t = 0; t < T; t++) sum[t] = add_small(sum[t], part, x + t * stride + k);
    part = high_half(w);
    for (int t = 0; t < T; t++) sum[t] = add_small(sum[t], part, x + t * stride + k + 4);
  }
}

template <int T, int BLOCK>
void tile_q4(const Linear& l, int panel, int token) {
  const int64_t blocks = blocks_of(*l.matrix), stride = blocks * BLOCK;
  const uint8_t* w = panel_of(*l.matrix, panel);
  const int8_t* x = l.codes.codes + token * stride;
  Lanes y[T] = {};
  for (int64_t b = 0; b < blocks; b++, w += 32 + 8 * BLOCK, x += BLOCK) {
    Sum sum[T];
    block_q4<T, BLOCK>(w + 32, x, stride, l.codes.corrections + token * blocks + b, sum, blocks);
    const Lanes scales = load16((const uint16_t*)w);
    for (int t = 0; t < T; t++) y[t] += finish(sum[t]) * (all16(l.codes.scales[(token + t) * blocks + b]) * scales);
  }
  for (int t = 0; t < T; t++) finish_panel(l, panel, token + t, y[t]);
}

template <int T, int BLOCK>
void tile_q8(const Linear& l, int panel, int token) {
  const int64_t blocks = blocks_of(*l.matrix), stride = blocks * BLOCK;
  const uint8_t* w = panel_of(*l.matrix, panel);
  const int8_t* x = l.codes.codes + token * stride;
  Lanes y[T] = {};
  for (int64_t b = 0; b < blocks; b++, x += BLOCK) {
    const Lanes scales = load16((const uint16_t*)w);
    w += 32;
    WideSum sum[T];
    for (int t = 0; t < T; t++) sum[t] = start_wide();
    for (int k = 0; k < BLOCK; k += 4, w += 64) {
      prefetch(w + 2048);
      const Wide part = wide(w);
      for (int t = 0; t < T; t++) sum[t] = add_wide(sum[t], part, x + t * stride + k);
    }
    for (int t = 0; t < T; t++)
      y[t] += finish_wide(sum[t]) * (all16(l.codes.scales[(token + t) * blocks + b]) * scales);
  }
  for (int t = 0; t < T; t++) finish_panel(l, panel, token + t, y[t]);
}

template <int T>
void tile(const Linear& l, int panel, int token) {
  const GlmMatrix& m = *l.matrix;
  if (m.kind == GLM_F32)
    tile_f32<T, 1>(l, panel, token);
  else if (m.kind == GLM_Q4)
    m.block == 64 ? tile_q4<T, 64>(l, panel, token) : tile_q4<T, 32>(l, panel, token);
  else
    m.block == 64 ? tile_q8<T, 64>(l, panel, token) : tile_q8<T, 32>(l, panel, token);
}

#if defined(__AMX_INT8__)
enum { CHUNK_BYTES = 786432 };  // processors with tiles have 2 MB of second-level cache
#include "amx.h"
#else
enum { CHUNK_BYTES = 196608 };
INLINE int sixteens(const Linear&, int, int token, int) { return token; }
#endif

typedef void (*Tile)(const Linear&, int panel, int token);

void linear(const Linear& l, int first, int last) {
  static const Tile single[] = {tile<1>,        tile<2>,        tile<3>,        tile<4>,
                                tile<TILE - 3>, tile<TILE - 2>, tile<TILE - 1>, tile<TILE>};
  enum { PAIR = TILE == 8 ? 2 : 1 };  // panels that there are registers for
  static const Tile pairs[] = {tile_f32<1, PAIR>,        tile_f32<2, PAIR>,        tile_f32<3, PAIR>,
                               tile_f32<4, PAIR>,        tile_f32<TILE - 3, PAIR>, tile_f32<TILE - 2, PAIR>,
                               tile_f32<TILE - 1, PAIR>, tile_f32<TILE, PAIR>};
  const int panels = panels_of(*l.matrix), chunk = chunk_of(*l.matrix, CHUNK_BYTES);
  for (int unit = first, step; unit < last; unit += step) {
    const bool paired = PAIR == 2 && l.matrix->kind == GLM_F32 && unit + 1 < last && (unit + 1) % panels > 0;
    const Tile* tiles = paired ? pairs : single;
    step = paired ? PAIR : 1;
    int token = unit / panels * chunk, end = token + chunk < l.tokens ? token + chunk : l.tokens;
    while (token < end) {
      int run = end;  // tokens from here on that are all wanted
      if (l.adapter) {
        while (token < end && l.adapters[token] != l.adapter) token++;
        for (run = token; run < end && l.adapters[run] == l.adapter; run++) continue;
      }
      token = sixteens(l, unit % panels, token, run);
      for (int count = ceil_div(run - token, TILE); count > 0;
           count--) {  // tiles of nearly equal size: 7 tokens are 4 + 3, not 6 + 1
        int size = ceil_div(run - token, count);
        tiles[size - 1](l, unit % panels, token);
        token += size;
      }
    }
  }
}

// A block of one token's activations: 127 steps from zero to the largest, to the nearest step. A block that holds NaN
// or infinity becomes NaN.
void quantize(const Linear& l, int first, int last) {
  const GlmMatrix& m = *l.matrix;
  const int blocks = blocks_of(m);
  for (int unit = first; unit < last; unit++) {
    const int column = unit % blocks * m.block, count = m.columns - column < m.block ? m.columns - column : m.block;
    const float* x = l.x + unit / blocks * l.x_width + column;
    f8 values[8], largest = all(0.f), bad = all(0.f);
    for (int i = 0; i < m.block / 8; i++) {
      values[i] = load_some(x + 8 * i, count - 8 * i);
      largest = bigger(absolute(values[i]), largest);
      bad += values[i] * all(0.f);
    }
    const float top = biggest(largest), wrong = sum(bad);
    const bool good = wrong == 0.f && top > 0.f;
    l.codes.scales[unit] = wrong == 0.f ? top / 127.f : NAN;
    int8_t* codes = l.codes.codes + (int64_t)unit * m.block;
    i8 total = all(0);
    for (int i = 0; i < m.block / 8; i++) {
      i8 code = good ? nearest(values[i] * all(127.f / top)) : all(0);
      total += code;
      store(codes + 8 * i, __builtin_convertvector(code, b8));
    }
    uint32_t even = (uint32_t)(-8 * (total[0] + total[1] + total[4] + total[5])),
             odd = (uint32_t)(-8 * (total[2] + total[3] + total[6] + total[7]));
    l.codes.corrections[unit] = (int32_t)((even & 0xffff) | odd << 16);
  }
}

// Row `row` of a table that stays as it is stored, at any address.
void stored_row(const GlmMatrix& m, int row, float* out) {
  const int64_t start = (int64_t)row * (m.kind < GLM_ROWS_Q4 ? m.block : m.columns);
  const auto half = [](const void* at, int64_t i) { return load<uint16_t>((const uint8_t*)at + 2 * i); };
  for (int k = 0; k < m.columns; k++) {
    const int64_t i = start + k;
    if (m.kind == GLM_ROWS_F32) {
      out[k] = load<float>(m.data + 4 * i);
    } else if (m.kind == GLM_ROWS_F16) {
      out[k] = from_half(half(m.data, i));
    } else if (m.kind == GLM_ROWS_BF16) {
      out[k] = bits<float>((uint32_t)half(m.data, i) << 16);
    } else {
      const int code = m.kind == GLM_ROWS_Q8 ? (int8_t)m.data[i] : (((m.data[i / 2] >> (i % 2 ? 0 : 4)) & 15) ^ 8) - 8;
      out[k] = (float)code * from_half(half(m.scales, i / m.block));
    }
  }
}

// Row `row` of the weights, for embedding tables.
void unpack_row(const GlmMatrix& m, int row, float* out) {
  if (m.kind >= GLM_ROWS_F32) return stored_row(m, row, out);
  const uint8_t* w = panel_of(m, row / 16);
  const int lane = row % 16, offset = lane / 8 * 32 + lane % 8 * 4;
  if (m.kind == GLM_F32) {
    for (int k = 0; k < m.columns; k++) out[k] = ((const float*)w)[k * 16 + lane];
    return;
  }
  const int bytes = m.kind == GLM_Q4 ? m.block * 8 : m.block * 16;
  for (int k = 0; k < m.columns; k++) {
    const uint8_t* block = w + (int64_t)(k / m.block) * (32 + bytes);
    const int i = k % m.block;
    const int code = m.kind == GLM_Q8 ? (int8_t)block[32 + i / 4 * 64 + offset + i % 4]
                                      : (block[32 + i / 8 * 64 + offset + i % 4] >> (i % 8 < 4 ? 0 : 4) & 15) - 8;
    out[k] = (float)code * load_half((const uint16_t*)block + lane / 8 * 8)[lane % 8];
  }
}

}  // namespace
