// One code path. CMakeLists.txt compiles this file once for each instruction set, with PATH naming the table it fills.
// Nothing from the standard C++ library is used here: a template compiled for AVX2 could be the copy that the linker
// keeps for all.
#include "kernels.h"

#include "attend.h"
#include "linear.h"

namespace {

// Token embeddings, and positions' where they are learned: tables `weight` and `bias`, [positions, width].
void embed(const GlmOp& op, const GlmBuffer& out, const GlmStep& s, int first, int last) {
  for (int token = first; token < last; token++) {
    float* row = out.data + token * out.width;
    unpack_row(*op.matrix, s.ids[token], row);
    if (!op.weight) continue;
    const float *position = op.weight + s.positions[token] * out.width,
                *inner = op.bias + s.positions[s.tokens + token] * out.width;
    for (int64_t i = 0; i < out.width; i++) row[i] = row[i] + position[i] + inner[i];
  }
}

void norm(const GlmOp& op, const float* in, int64_t in_width, const float* residual, int64_t residual_width,
          const GlmBuffer& out, int first, int last) {
  const int width = (int)out.width, whole = width / 8 * 8;
  for (int token = first; token < last; token++) {
    const float* x = in + token * in_width;
    float* y = out.data + token * out.width;
    f8 total = all(0.f), square = all(0.f);
    float mean = 0.f;
    if (op.mode == 1) {
      for (int i = 0; i < width; i += 8) total += load_some(x + i, width - i);
      mean = sum(total) / (float)width;
    }
    for (int i = 0; i < whole; i += 8) square += (load8(x + i) - all(mean)) * (load8(x + i) - all(mean));
    float rest = 0.f;
    for (int i = whole; i < width; i++) rest += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.f / sqrtf((sum(square) + rest) / (float)width + op.eps);
    for (int i = 0; i < width; i += 8) {
      f8 v = (load_some(x + i, width - i) - all(mean)) * all(scale) * load_some(op.weight + i, width - i);
      if (op.bias) v += load_some(op.bias + i, width - i);
      if (residual) v += load_some(residual + token * residual_width + i, width - i);
      store_some(y + i, v, width - i);
    }
  }
}

float highest(const float* x, int count) {
  const int whole = count / 8 * 8;
  f8 most = all(-INFINITY);
  i8 wrong = all(0);
  for (int i = 0; i < whole; i += 8) {
    const f8 v = load8(x + i);
    most = bigger(v, most);
    wrong |= v != v;
  }
  float top = biggest(most);
  for (int i = whole; i < count; i++) {
    top = x[i] > top ? x[i] : top;
    wrong[0] |= x[i] != x[i];
  }
  for (int i = 0; i < 8; i++)
    if (wrong[i]) return NAN;
  return top;
}

void weigh(const float* x, int count, float top, float heat, float* out, float* sums) {
  for (int first = 0; first < count; first += GLM_WEIGHED) {
    const int last = first + GLM_WEIGHED < count ? first + GLM_WEIGHED : count;
    f8 total = all(0.f);
    for (int i = first; i < last; i += 8) {
      const f8 power = (load_some(x + i, last - i) - all(top)) / all(heat), zero = all(0.f);
      f8 weight = power < all(-87.f) ? zero : exponential(power);
      store_some(out + i, weight, last - i);
      for (int j = last - i; j < 8; j++) weight[j] = 0.f;
      total += weight;
    }
    *sums++ = sum(total);
  }
}

}  // namespace

#define JOIN(a, b) a##b
#define TABLE(path) JOIN(kernels_, path)
#define TEXT(x) #x
#define NAME(path) TEXT(path)
extern const Kernels TABLE(PATH);
const Kernels TABLE(PATH) = {NAME(PATH), CHUNK_BYTES, embed, norm, quantize, linear, rotary, attend, highest, weigh};
