// What each code path offers. Every function works on units [first, last) of its operation, so that any number of
// threads can share one.
#pragma once
#include "glm.h"

struct Bytes {
  const uint8_t* from;
  int64_t count;
};

struct Linear {
  const GlmMatrix* matrix;
  const float *x, *residual;
  GlmActivations codes;
  float* out;
  int64_t x_width, residual_width, out_width;
  int tokens, mode;
  float scale;
  int adapter;
  const int32_t* adapters;  // as in GlmOp and GlmStep
  const float* added;
  int64_t added_width;
};

struct Kernels {
  const char* name;
  int chunk_bytes;  // of the activations that `linear` goes through at once
  void (*embed)(const GlmOp&, const GlmBuffer& out, const GlmStep&, int first, int last);  // unit: token
  void (*norm)(const GlmOp&, const float* in, int64_t in_width, const float* residual, int64_t residual_width,
               const GlmBuffer& out, int first, int last);                               // token
  void (*quantize)(const Linear&, int first, int last);                                  // token and block
  void (*linear)(const Linear&, int first, int last);                                    // chunk of tokens and panel
  void (*rotary)(const GlmOp&, const GlmProgram&, const GlmStep&, int first, int last);  // token and kv head
  void (*attend)(const GlmOp&, const GlmProgram&, const GlmStep&, int threads, int first,
                 int last);                     // tokens and heads
  float (*highest)(const float* x, int count);  // NaN where there is one
  // e^((x - top) / heat), and the sum of each GLM_WEIGHED of them
  void (*weigh)(const float* x, int count, float top, float heat, float* out, float* sums);
};
enum { GLM_WEIGHED = 256 };

static inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
static inline int blocks_of(const GlmMatrix& m) { return ceil_div(m.columns, m.block); }
static inline int panels_of(const GlmMatrix& m) { return ceil_div(m.rows, GLM_ROWS); }
static inline int64_t panel_bytes(int kind, int columns, int block) {
  int64_t blocks = ceil_div(columns, block), weights = GLM_ROWS * block;
  return kind == GLM_F32 ? 4 * GLM_ROWS * (int64_t)columns
                         : blocks * (2 * GLM_ROWS + (kind == GLM_Q4 ? weights / 2 : weights));
}
static inline Bytes bytes_of(const GlmMatrix& m) {
  return {m.data, panels_of(m) * panel_bytes(m.kind, m.columns, m.block)};
}
static inline const uint8_t* panel_of(const GlmMatrix& m, int panel) {
  return m.data + panel * panel_bytes(m.kind, m.columns, m.block);
}
// Tokens whose activations stay in the second-level cache, `bytes` of it, while panels pass by; 48 are whole tiles on
// every path.
static inline int chunk_of(const GlmMatrix& m, int bytes) {
  int tokens = (m.kind == GLM_F32 ? bytes / 4 : bytes) / m.columns;
  return tokens < 24 ? 24 : tokens < 48 ? tokens / 24 * 24 : tokens / 48 * 48;
}
static inline int linear_units(const GlmMatrix& m, int tokens, int bytes) {
  return ceil_div(tokens, chunk_of(m, bytes)) * panels_of(m);
}

// How attention is cut: rows of one unit share a kv head.
struct Cut {
  int heads, parts, tokens;  // query heads of a unit, units that a kv head's query heads make, tokens of a unit
};
static inline Cut cut_of(const GlmCache& c, const GlmStep& s, int threads) {
  int group = c.heads / c.kv_heads, heads = group;
  while (heads > 8 || (heads > 4 && heads % 2 == 0 && s.tokens * c.kv_heads * (group / heads) < threads))
    heads = ceil_div(heads, 2);
  return {heads, ceil_div(group, heads), 8 / heads};
}
static inline int attend_units(const GlmCache& c, const GlmStep& s, int threads) {
  Cut cut = cut_of(c, s, threads);
  int blocks = 0;
  for (int i = 0; i < s.sequences; i++) blocks += ceil_div(s.starts[i + 1] - s.starts[i], cut.tokens);
  return blocks * c.kv_heads * cut.parts;
}
