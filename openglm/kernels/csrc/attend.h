// Rotary positions, the paged cache, and attention over it.
#pragma once
#include <math.h>

#include "kernels.h"
#include "simd.h"

namespace {

enum {
  CHUNK = 512,
  MOST_ROWS = 8,
  LARGEST_HEAD = 256,
  SOON = 3
};  // columns between two looks at the running maximum; limits of one unit of attention; half-blocks of cache that are
    // fetched before they are needed

INLINE uint8_t* head_of(const GlmCache& c, int layer, int block, int head) {
  return c.data + layer * c.layer_bytes + block * c.block_bytes + head * c.head_bytes;
}

void rms(float* x, int width, const float* weight, float eps) {
  f8 square = all(0.f);
  float rest = 0.f;
  int i = 0;
  for (; i + 8 <= width; i += 8) square += load8(x + i) * load8(x + i);
  for (; i < width; i++) rest += x[i] * x[i];
  float scale = 1.f / sqrtf((sum(square) + rest) / (float)width + eps);
  for (i = 0; i < width; i++) x[i] *= scale * weight[i];
}

// angles: [axes, 2, count] of one token: cosines, then sines.
void turn(float* x, const float* angles, int layout, int count, int head_dim) {
  const bool pairs = layout == GLM_ROPE_HALF;
  for (int axis = 0; axis < (layout == GLM_ROPE_2D ? 2 : 1); axis++, angles += 2 * count, x += head_dim / 2)
    for (int i = 0; i < count; i++) {
      const int a = pairs ? 2 * i : i, b = pairs ? a + 1 : i + count;
      const float first = x[a], second = x[b];
      x[a] = first * angles[i] - second * angles[count + i];
      x[b] = second * angles[i] + first * angles[count + i];
    }
}

INLINE void narrow(float x, float* out) { *out = x; }
INLINE void narrow(float x, uint16_t* out) { *out = to_half(x); }

// int8: one scale for a token's key and one for its value; a NaN or an infinity makes that scale NaN.
float narrow_all(const float* x, int count, int8_t* out, int stride) {
  float largest = 0.f, bad = 0.f;
  for (int i = 0; i < count; i++) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest, bad += x[i] * 0.f;
  const float inverse = bad == 0.f && largest > 0.f ? 127.f / largest : 0.f;
  for (int i = 0; i < count; i++) out[i * stride] = bad == 0.f ? (int8_t)nearbyintf(x[i] * inverse) : 0;
  return bad == 0.f ? largest / 127.f : NAN;
}
template <class E>
float narrow_all(const float* x, int count, E* out, int stride) {
  for (int i = 0; i < count; i++) narrow(x[i], out + i * stride);
  return 1.f;
}

template <class E>
void append(const GlmCache& c, uint8_t* head, int slot, const float* key, const float* value) {
  E *keys = (E*)head, *values = keys + c.head_dim * 16;
  float* scales = (float*)(values + c.head_dim * 16);
  float k = narrow_all(key, c.head_dim, keys + slot, 16),
        v = narrow_all(value, c.head_dim, values + slot * c.head_dim, 1);
  if (c.kind == GLM_KV_I8) scales[slot] = k, scales[16 + slot] = v;
}

int sequence_of(const GlmStep& s, int token) {
  int i = 0;
  while (s.starts[i + 1] <= token) i++;
  return i;
}

// Buffer `in`: [q heads, k heads, v heads] of each token; queries are turned and scaled in place, keys and values go to
// the cache.
void rotary(const GlmOp& op, const GlmProgram& p, const GlmStep& s, int first, int last) {
  const GlmCache& c = p.cache;
  const int d = c.head_dim, group = c.heads / c.kv_heads, axes = p.rotary == GLM_ROPE_2D ? 2 : 1;
  for (int unit = first; unit < last; unit++) {
    const int token = unit / c.kv_heads, head = unit % c.kv_heads, sequence = sequence_of(s, token);
    float* row = p.buffers[op.in].data + token * p.buffers[op.in].width;
    float *key = row + (c.heads + head) * d, *value = key + c.kv_heads * d;
    const float* angles = p.angles + (int64_t)token * axes * 2 * p.angle_count;
    for (int h = head * group; h < (head + 1) * group; h++) {
      float* query = row + h * d;
      if (op.weight) rms(query, d, op.weight, op.eps);
      if (p.rotary) turn(query, angles, p.rotary, p.angle_count, d);
      for (int i = 0; i < d; i++) query[i] *= op.scale;
    }
    if (op.bias) rms(key, d, op.bias, op.eps);
    if (p.rotary) turn(key, angles, p.rotary, p.angle_count, d);
    const int index = s.cached[sequence] + token - s.starts[sequence];
    uint8_t* at = head_of(c, op.layer, s.tables[sequence * s.table_width + index / 16], head);
    if (c.kind == GLM_KV_F32)
      append<float>(c, at, index % 16, key, value);
    else if (c.kind == GLM_KV_F16)
      append<uint16_t>(c, at, index % 16, key, value);
    else
      append<int8_t>(c, at, index % 16, key, value);
  }
}

// c [R, 16] = (c +) a [R, k] b [k, 16]: the inner loop of both halves of attention. Meanwhile as much is fetched from
// `soon`, unless that is null: line by line, for of many lines at once processors drop some.
template <int R, bool ADD, class E>
INLINE void multiply(const float* a, int a_stride, const E* b, int b_stride, int k, float* c, int c_stride,
                     const E* soon = nullptr) {
  Lanes y[R] = {};
  if (ADD)
    for (int r = 0; r < R; r++) y[r] = load16(c + r * c_stride);
  for (int i = 0; i < k; i++, b += b_stride) {
    const Lanes v = load16(b);
    if (soon) prefetch(soon + 16 * i);
    for (int r = 0; r < R; r++) y[r] += all16(a[r * a_stride + i]) * v;
  }
  for (int r = 0; r < R; r++) store(c + r * c_stride, y[r]);
}
template <bool ADD, class E>
void multiply_rows(int rows, const float* a, int a_stride, const E* b, int b_stride, int k, float* c, int c_stride,
                   const E* soon) {
  for (; TILE == 8 && rows >= 8; rows -= 8, a += 8 * a_stride, c += 8 * c_stride, soon = nullptr)
    multiply<8, ADD>(a, a_stride, b, b_stride, k, c, c_stride, soon);
  for (; rows >= 4; rows -= 4, a += 4 * a_stride, c += 4 * c_stride, soon = nullptr)
    multiply<4, ADD>(a, a_stride, b, b_stride, k, c, c_stride, soon);
  if (rows == 3) multiply<3, ADD>(a, a_stride, b, b_stride, k, c, c_stride, soon);
  if (rows == 2) multiply<2, ADD>(a, a_stride, b, b_stride, k, c, c_stride, soon);
  if (rows == 1) multiply<1, ADD>(a, a_stride, b, b_stride, k, c, c_stride, soon);
}

struct Rows {  // one unit of attention: rows that share a kv head and a sequence
  float query[MOST_ROWS * LARGEST_HEAD], score[MOST_ROWS * CHUNK], out[MOST_ROWS * LARGEST_HEAD];
  float largest[MOST_ROWS], total[MOST_ROWS];
  float* target[MOST_ROWS];
  int seen[MOST_ROWS], rows;
};

// Scores of one row in, exp(score - maximum so far) out; what was summed before is scaled down to the new maximum.
void soften(Rows& u, int row, int count, int d) {
  float* score = u.score + row * CHUNK;
  f8 top = all(u.largest[row]);
  for (int i = count; i % 8; i++) score[i] = -INFINITY;
  for (int i = 0; i < count; i += 8) top = bigger(load8(score + i), top);
  const float now = biggest(top), shrink = exponential(all(u.largest[row] - now))[0];
  f8 total = all(0.f);
  for (int i = 0; i < count; i += 8) {
    f8 e = exponential(load8(score + i) - all(now));
    total += e;
    store(score + i, e);
  }
  u.total[row] = u.total[row] * shrink + sum(total);
  u.largest[row] = now;
  for (int i = 0; i < d; i += 8) store(u.out + row * d + i, load8(u.out + row * d + i) * all(shrink));
}

template <class E>
void attend_rows(const GlmCache& c, Rows& u, int layer, const int32_t* table, int head) {
  const int d = c.head_dim, half = d * 16;
  const auto keys_of = [&](int column) { return (const E*)head_of(c, layer, table[column / 16], head); };
  int columns = 0;
  for (int r = 0; r < u.rows; r++) columns = u.seen[r] > columns ? u.seen[r] : columns;
  // A chunk's keys are read before its values, block after block, and no processor can foresee where the next block
  // lies: half-block n of the chunk at `from`, or of the next one; null behind the last.
  const auto half_block = [&](int from, int blocks, int n) -> const E* {
    const bool further = n >= 2 * blocks;
    const int column = further ? from + CHUNK + 16 * (n - 2 * blocks) : from + 16 * (n % blocks);
    return column < columns ? keys_of(column) + (further || n < blocks ? 0 : half) : nullptr;
  };
  for (int n = 0; n < SOON; n++)
    if (const E* first = half_block(0, ceil_div(columns < CHUNK ? columns : CHUNK, 16), n))
      for (int i = 0; i < half; i += 64 / (int)sizeof(E)) prefetch(first + i);
  for (int from = 0; from < columns; from += CHUNK) {
    const int end = from + CHUNK < columns ? from + CHUNK : columns, blocks = ceil_div(end - from, 16);
    for (int at = from; at < end; at += 16) {
      const E* keys = keys_of(at);
      multiply_rows<false>(u.rows, u.query, d, keys, 16, d, u.score + at - from, CHUNK,
                           half_block(from, blocks, (at - from) / 16 + SOON));
      if (c.kind != GLM_KV_I8) continue;
      const float* scales = (const float*)(keys + 2 * half);
      for (int r = 0; r < u.rows; r++)
        for (int i = 0; i < 16; i++) u.score[r * CHUNK + at - from + i] *= scales[i];
    }
    int shared = CHUNK;  // columns that all rows see; those that only some see are added row by row: a hidden value may
                         // be anything, even NaN
    for (int r = 0; r < u.rows; r++) {
      const int count = u.seen[r] - from < 0 ? 0 : u.seen[r] - from > CHUNK ? CHUNK : u.seen[r] - from;
      if (count > 0) soften(u, r, count, d);
      shared = count < shared ? count : shared;
    }
    for (int at = from; at < end; at += 16) {
      const E* values = keys_of(at) + half;
      const E* soon = half_block(from, blocks, blocks + (at - from) / 16 + SOON);
      float* score = u.score + at - from;
      const float* scales = (const float*)(values + half) + 16;
      if (c.kind == GLM_KV_I8)
        for (int r = 0; r < u.rows; r++)
          for (int i = 0; i < 16; i++) score[r * CHUNK + i] *= scales[i];
      int together = shared - (at - from);
      together = together < 0 ? 0 : together > 16 ? 16 : together;
      for (int x = 0; x < d; x += 16) {
        multiply_rows<true>(u.rows, score, CHUNK, values + x, d, together, u.out + x, d, soon ? soon + 16 * x : soon);
        for (int r = 0; r < u.rows && together < 16; r++) {
          const int own = u.seen[r] - at > 16 ? 16 : u.seen[r] - at;
          if (own > together)
            multiply<1, true>(score + r * CHUNK + together, 0, values + together * d + x, d, own - together,
                              u.out + r * d + x, 0);
        }
      }
    }
  }
}

// Buffer `in` as `rotary` left it; the heads' sums go to `out`. Token i of a sequence sees columns below max(prefix, i
// + 1).
void attend(const GlmOp& op, const GlmProgram& p, const GlmStep& s, int threads, int first, int last) {
  const GlmCache& c = p.cache;
  const Cut cut = cut_of(c, s, threads);
  const int d = c.head_dim, group = c.heads / c.kv_heads, units_of_block = c.kv_heads * cut.parts;
  static thread_local Rows u;
  int sequence = 0, before = 0;  // blocks of the sequences before this one
  for (int unit = first; unit < last; unit++) {
    const int head = unit % units_of_block / cut.parts, part = unit % cut.parts;
    int block;
    while ((block = unit / units_of_block - before) >=
           ceil_div(s.starts[sequence + 1] - s.starts[sequence], cut.tokens))
      before += ceil_div(s.starts[sequence + 1] - s.starts[sequence], cut.tokens), sequence++;
    u.rows = 0;
    for (int t = block * cut.tokens; t < (block + 1) * cut.tokens && s.starts[sequence] + t < s.starts[sequence + 1];
         t++)
      for (int h = part * cut.heads; h < (part + 1) * cut.heads && h < group; h++, u.rows++) {
        const int token = s.starts[sequence] + t, past = s.cached[sequence] + t + 1, at = (head * group + h) * d;
        memcpy(u.query + u.rows * d, p.buffers[op.in].data + token * p.buffers[op.in].width + at,
               (size_t)d * sizeof(float));
        u.target[u.rows] = p.buffers[op.out].data + token * p.buffers[op.out].width + at;
        u.seen[u.rows] = past > s.prefix[sequence] ? past : s.prefix[sequence];
        u.largest[u.rows] = -INFINITY, u.total[u.rows] = 0.f;
      }
    memset(u.out, 0, (size_t)(u.rows * d) * sizeof(float));
    const int32_t* table = s.tables + (int64_t)sequence * s.table_width;
    if (c.kind == GLM_KV_F32)
      attend_rows<float>(c, u, op.layer, table, head);
    else if (c.kind == GLM_KV_F16)
      attend_rows<uint16_t>(c, u, op.layer, table, head);
    else
      attend_rows<int8_t>(c, u, op.layer, table, head);
    for (int r = 0; r < u.rows; r++)
      for (int i = 0; i < d; i++) u.target[r][i] = u.out[r * d + i] / u.total[r];
  }
}

}  // namespace
