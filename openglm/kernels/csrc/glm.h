// The plain C interface of the kernels and the structures that cross it. Mirrored by openglm/kernels/library.py, which
// holds the two to each other by their sizes. Pointers come from the caller and stay the caller's; nothing here
// allocates but the pool's threads and their scratch space.
#pragma once
#include <stdint.h>

enum { GLM_F32 = 0, GLM_Q4 = 1, GLM_Q8 = 2 };                                      // weights
enum { GLM_ROWS_F32 = 3, GLM_ROWS_F16, GLM_ROWS_BF16, GLM_ROWS_Q4, GLM_ROWS_Q8 };  // tables that are only looked up
enum { GLM_KV_F32 = 0, GLM_KV_F16 = 1, GLM_KV_I8 = 2 };                            // cache

enum { GLM_ROWS = 16 };  // rows of weights in one panel, tokens in one block of the cache, lanes of every inner product

// Weights in panels of 16 rows, which a row of activations streams through once, front to back (pack.cpp):
//   F32  for each column, 16 floats
//   Q4   for each block of columns, 16 fp16 scales, then for each 8 columns two vectors (rows 0-7, rows 8-15) of 8 rows
//   x 4 bytes,
//        byte j of a row = code of column j in the low half, of column j + 4 in the high half, both plus 8
//   Q8   for each block of columns, 16 fp16 scales, then for each 4 columns two vectors of 8 rows x 4 signed bytes
// Rows and columns are filled up with zeros to whole panels and blocks.
//
// A table that is only looked up stays as and where it is stored, which may be in its file:
//   F32, F16, BF16  rows that begin `block` numbers apart
//   Q4, Q8          codes of quant/codes.py, with an fp16 scale in `scales` for each `block` columns of a row
typedef struct {
  const uint8_t* data;
  const float* bias;  // [rows] in panel order, or null
  const uint16_t* scales;
  int32_t rows, columns, kind, block;
} GlmMatrix;

// Keys and values. A block holds 16 tokens of one sequence; for each layer, block and kv head: keys [head_dim, 16],
// values [16, head_dim], and for int8 16 + 16 fp32 scales after them.
typedef struct {
  uint8_t* data;
  int64_t layer_bytes, block_bytes, head_bytes;
  int32_t kind, heads, kv_heads, head_dim;
} GlmCache;

enum { GLM_EMBED, GLM_NORM, GLM_LINEAR, GLM_ROTARY, GLM_ATTEND, GLM_GATHER };
enum {
  GLM_PLAIN,
  GLM_RESIDUAL,
  GLM_GELU,
  GLM_GELU_TANH,
  GLM_GEGLU,
  GLM_SWIGLU
};  // what a linear op does with its product

// One operation on all tokens of a step. `in`, `out` and `other` number the program's buffers, -1: none; see
// program.cpp for the fields each kind reads.
typedef struct {
  int32_t kind, in, out, other;
  int32_t adapter;  // of GLM_LINEAR: only for tokens with this one, unless 0
  int32_t added;    // of GLM_LINEAR: buffer of what adapters add to the product before all else, for tokens that have
                    // one; in the order of the panels; -1: none
  int32_t layer, mode;  // mode: what GLM_LINEAR does with its product; GLM_NORM: 1 = LayerNorm
  float scale, eps;
  const GlmMatrix* matrix;
  const float *weight,
      *bias;  // of norms; of GLM_ROTARY: the norms of query and key heads; of GLM_EMBED: the two position tables
} GlmOp;

typedef struct {
  float* data;
  int64_t width;
} GlmBuffer;

// A buffer that fits any op: int8 activations of the widest input, with one scale and one correction a block.
typedef struct {
  int8_t* codes;
  float* scales;
  int32_t* corrections;
} GlmActivations;

typedef struct {
  const GlmOp* ops;
  GlmBuffer* buffers;
  GlmActivations activations;
  GlmCache cache;
  const float* frequencies;  // [angles]
  float* angles;             // [tokens, axes, 2, angles]
  uint64_t* ended;           // [op_count], when each operation ended, in nanoseconds of a steady clock; or null
  int32_t op_count, rotary, angle_count;
  float angle_scale;  // of cosines and sines
} GlmProgram;

enum { GLM_NO_ROTARY, GLM_ROPE, GLM_ROPE_2D, GLM_ROPE_HALF };

// The new tokens of all sequences, one sequence after another. Everything is checked by the caller.
typedef struct {
  const int32_t* ids;        // [tokens]
  const int32_t* positions;  // [2, tokens]
  const int32_t* starts;     // [sequences + 1], first token of each
  const int32_t* cached;     // [sequences], tokens already in the cache
  const int32_t* prefix;     // [sequences], columns that every token sees
  const int32_t* tables;     // [sequences, table_width], blocks of each
  const int32_t* rows;       // [outputs], tokens that GLM_GATHER takes
  const int32_t* adapters;   // [tokens], which LoRA each has; 0: none
  int32_t tokens, sequences, table_width, outputs;
} GlmStep;

// How the next token is chosen from a row of logits (engine/sampling.py).
typedef struct {
  double temperature, top_p, min_p;
  const int32_t* bias_ids;
  const float* bias_values;
  const int32_t* ends;  // tokens behind which others decide how to go on
  int32_t top_k, bias_count, end_count;
} GlmChoice;

// Steps of one token a sequence, each with the tokens that were chosen in the one before.
typedef struct {
  const GlmChoice* choices;  // [sequences]
  const double* uniforms;    // [steps, sequences], from [0, 1)
  const int32_t* positions;  // [steps, 2, sequences]
  int32_t* chosen;           // [steps, sequences]
  int32_t steps;
} GlmAhead;

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif
int glm_abi(void);            // a number that changes with this file, with the sizes of the structures mixed in
const char* glm_paths(void);  // code paths that this processor runs, best first, separated by blanks
int glm_start(int threads,
              const char* path);  // 0, or -1 if there is no such path; threads: the caller's is one of them
int64_t glm_packed_bytes(int kind, int rows, int columns, int block);
// Rows of codes or floats into panels. `interleaved`: 2 puts them into half-panels (8 rows each, `half` 0 or 1), so
// that a gate and its branch lie side by side; 1: whole panels.
void glm_pack(int kind, int rows, int columns, int block, const void* codes, const uint16_t* scales, int group,
              uint8_t* out, int first_row, int interleaved, int half);
void glm_huge_pages(void* data, int64_t bytes);
void glm_forget(void* data, int64_t bytes);  // what was there is lost, and its memory back with the system though the
                                             // place is still the caller's
void glm_run(const GlmProgram* program, const GlmStep* step);
// As many steps as are asked for, or fewer: up to the first in which a sequence gets one of its `ends`, and none for
// whose logits are not numbers. Returns how many.
int glm_go_on(const GlmProgram* program, const GlmStep* step, const GlmAhead* ahead);
// The token that a choice, its bias apart, takes; -1 where the largest logit is not a number.
int glm_choose(const float* logits, int count, const GlmChoice* choice, double uniform);
uint64_t glm_read(const void* data, int64_t bytes);  // sums memory on all threads: what reading can reach at best
#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
