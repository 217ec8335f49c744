// A step of a model: a flat list of operations that all threads walk through together. And the choice of the code path.
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "choose.h"
#include "kernels.h"
#include "paths.h"  // written by CMakeLists.txt: PATHS(each), the paths that were compiled, best first
#include "pool.h"

#define DECLARE(path) extern const Kernels kernels_##path;
PATHS(DECLARE)

namespace {

#if defined(__x86_64__) && defined(__linux__)
// Whether there are matrix tiles of bytes and the system, which must be asked once a process, lets us use them.
bool has_tiles() {
  enum { ASK_FOR_STATE = 0x1023, TILES = 18 };
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 3) == 3 &&
         syscall(SYS_arch_prctl, ASK_FOR_STATE, TILES) == 0;
}
#else
bool has_tiles() { return false; }
#endif

bool runs_here(const char* path) {
#if defined(__x86_64__) || defined(__i386__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!strcmp(path, "avx2")) return avx2;
  const bool vnni = avx2 && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vnni");
  if (!strcmp(path, "vnni")) return vnni;
  if (!strcmp(path, "amx")) return vnni && has_tiles();
#elif defined(__aarch64__) && defined(__linux__)
  if (!strcmp(path, "neon"))
    return getauxval(AT_HWCAP) &
           HWCAP_ASIMDDP;  // built with byte products; the portable path of ARM has the rest of NEON
#endif
  (void)path;
  return true;
}

const Kernels* find(const char* path) {
#define CHECK(name) \
  if (!strcmp(path, #name)) return runs_here(path) ? &kernels_##name : nullptr;
  PATHS(CHECK)
  return nullptr;
}

const Kernels* kernels = &kernels_portable;

enum {
  FEW = 16,
  NEXT_RUN = 4 << 20
};  // tokens of a step that lasts as long as reading the weights; bytes that are read while the caller chooses tokens

// What is chosen at the end of a step, where it is the kernels that choose.
struct Choices {
  const GlmChoice* of;     // [sequences]
  const double* uniforms;  // [sequences]
  int32_t* chosen;         // [sequences]
};

struct Walk {
  const GlmProgram* program;
  const GlmStep* step;
  const Choices* choices;
  Phases& phases;

  const GlmBuffer& buffer(int i) const { return program->buffers[i]; }

  bool wanted(int adapter) const {
    for (int token = 0; token < step->tokens; token++)
      if (step->adapters[token] == adapter) return true;
    return adapter == 0;
  }

  // A step of few tokens reads weights all the time: what the next product begins with is fetched where memory would
  // stand idle.
  void expect(const GlmOp* op, int tokens) const {
    for (const GlmOp* end = program->ops + program->op_count; op < end && tokens <= FEW; op++)
      if (op->kind == GLM_LINEAR) return phases.expect(bytes_of(*op->matrix));
  }

  // Fields of GLM_LINEAR: in, out, other (the residual), mode, scale (of the residual), matrix, adapter, added.
  void linear(const GlmOp& op, int tokens) const {
    if (!wanted(op.adapter)) return;
    const GlmBuffer &in = buffer(op.in), &out = buffer(op.out), &other = buffer(op.other < 0 ? op.in : op.other);
    const Linear l = {op.matrix,
                      in.data,
                      other.data,
                      program->activations,
                      out.data,
                      in.width,
                      other.width,
                      out.width,
                      tokens,
                      op.mode,
                      op.scale,
                      op.adapter,
                      step->adapters,
                      op.added < 0 ? nullptr : buffer(op.added).data,
                      op.added < 0 ? 0 : buffer(op.added).width};
    if (op.matrix->kind != GLM_F32)
      phases.share(tokens * blocks_of(*op.matrix), [&](int first, int last) { kernels->quantize(l, first, last); });
    expect(&op + 1, tokens);
    phases.share(linear_units(*op.matrix, tokens, kernels->chunk_bytes),
                 [&](int first, int last) { kernels->linear(l, first, last); });
  }

  // cos and sin of every position; the product is in fp32, as in the plain model.
  void angles(int first, int last) const {
    const GlmProgram& p = *program;
    const int axes = p.rotary == GLM_ROPE_2D ? 2 : 1;
    for (int unit = first; unit < last; unit++) {
      const float position = (float)step->positions[unit % axes * step->tokens + unit / axes];
      float* out = p.angles + (int64_t)unit * 2 * p.angle_count;
      for (int i = 0; i < p.angle_count; i++)
        out[i] = cosf(position * p.frequencies[i]) * p.angle_scale,
        out[p.angle_count + i] = sinf(position * p.frequencies[i]) * p.angle_scale;
    }
  }

  // Fields of GLM_GATHER: in, out.
  void gather(const GlmOp& op, int first, int last) const {
    const GlmBuffer &in = buffer(op.in), &out = buffer(op.out);
    for (int i = first; i < last; i++)
      memcpy(out.data + i * out.width, in.data + step->rows[i] * in.width, (size_t)out.width * sizeof(float));
  }

  void execute(const GlmOp& op, int tokens) const {
    switch (op.kind) {
      case GLM_EMBED:  // out, matrix, weight, bias
        return phases.share(tokens,
                            [&](int first, int last) { kernels->embed(op, buffer(op.out), *step, first, last); });
      case GLM_NORM: {  // in, out, other (added afterwards), mode, eps, weight, bias
        const GlmBuffer &in = buffer(op.in), &other = buffer(op.other < 0 ? op.in : op.other);
        return phases.share(tokens, [&](int first, int last) {
          kernels->norm(op, in.data, in.width, op.other < 0 ? nullptr : other.data, other.width, buffer(op.out), first,
                        last);
        });
      }
      case GLM_LINEAR:
        return linear(op, tokens);
      case GLM_ROTARY:  // in, layer, scale (of queries), weight, bias, eps
        return phases.share(tokens * program->cache.kv_heads,
                            [&](int first, int last) { kernels->rotary(op, *program, *step, first, last); });
      case GLM_ATTEND: {  // in, out, layer
        const int threads = Pool::threads();
        return phases.share(attend_units(program->cache, *step, threads),
                            [&](int first, int last) { kernels->attend(op, *program, *step, threads, first, last); });
      }
      default:
        return phases.share(step->outputs, [&](int first, int last) { gather(op, first, last); });
    }
  }

  void choose_next(int first, int last) const {
    const GlmBuffer& logits = buffer(program->ops[program->op_count - 1].out);
    for (int i = first; i < last; i++) {
      const GlmChoice& choice = choices->of[i];
      float* row = logits.data + i * logits.width;
      for (int j = 0; j < choice.bias_count; j++) row[choice.bias_ids[j]] += choice.bias_values[j];
      choices->chosen[i] = choose(*kernels, row, (int)logits.width, choice, choices->uniforms[i]);
    }
  }

  void operator()() const {
    const GlmProgram& p = *program;
    if (p.rotary)
      phases.share(step->tokens * (p.rotary == GLM_ROPE_2D ? 2 : 1), [&](int first, int last) { angles(first, last); });
    int tokens = step->tokens;
    for (int i = 0; i < p.op_count; i++) {
      if (p.ops[i].kind == GLM_GATHER) tokens = step->outputs;  // from here on only the rows that were asked for
      if (p.ended) phases.ended = p.ended + i;
      expect(p.ops + i, tokens);
      execute(p.ops[i], tokens);
    }
    if (choices) phases.share(step->outputs, [&](int first, int last) { choose_next(first, last); });
  }
};

struct Call {
  const GlmProgram* program;
  const GlmStep* step;
  const Choices* choices;
};

void run(const GlmProgram* program, const GlmStep* step, const Choices* choices) {
  Call call = {program, step, choices};
  // A step of few tokens reads weights all the time, and another one follows: it may find its first ones in the caches.
  Bytes next = {nullptr, 0};
  for (int i = 0; i < program->op_count && step->tokens <= FEW && !next.from; i++)
    if (program->ops[i].kind == GLM_LINEAR) next = {program->ops[i].matrix->data, NEXT_RUN};
  Pool::run(
      [](void* argument, Phases& phases) {
        const Call& call = *(Call*)argument;
        Walk{call.program, call.step, call.choices, phases}();
      },
      &call, next);
}

// Reads memory as a product reads weights: pieces of 64 KB, front to back.
struct Read {
  const uint8_t* data;
  int64_t bytes;
  std::atomic<uint64_t> total{0};
  enum { PIECE = 1 << 16 };

  void walk(Phases& phases) {
    uint64_t sum[8] = {}, all = 0;
    phases.share((int)(bytes / PIECE), [&](int first, int last) {
      for (const uint8_t *p = data + (int64_t)first * PIECE, *end = data + (int64_t)last * PIECE; p < end; p += 64) {
        __builtin_prefetch(p + 2048);
        for (int i = 0; i < 8; i++) sum[i] += ((const uint64_t*)p)[i];
      }
    });
    for (uint64_t s : sum) all += s;
    total += all;
  }
};

}  // namespace

extern "C" {

int glm_abi(void) {
  return (int)(sizeof(GlmMatrix) + 7 * sizeof(GlmCache) + 49 * sizeof(GlmOp) + 343 * sizeof(GlmProgram) +
               2401 * sizeof(GlmStep) + 16807 * sizeof(GlmChoice) + 117649 * sizeof(GlmAhead)) *
             16 +
         3;
}

const char* glm_paths(void) {
  static const std::string names = [] {
    std::string all;
#define LIST(name) \
  if (runs_here(#name)) all += all.empty() ? #name : " " #name;
    PATHS(LIST)
    return all;
  }();
  return names.c_str();
}

int glm_start(int threads, const char* path) {
  const Kernels* found = find(path);
  if (!found) return -1;
  kernels = found;
  Pool::start(threads);
  return 0;
}

#ifdef __linux__
namespace {
// For the whole pages between two addresses.
void advise(void* data, int64_t bytes, uintptr_t page, int advice) {
  const uintptr_t first = ((uintptr_t)data + page - 1) / page * page,
                  last = ((uintptr_t)data + (uintptr_t)bytes) / page * page;
  if (last > first) madvise((void*)first, last - first, advice);
}
}  // namespace

void glm_huge_pages(void* data, int64_t bytes) { advise(data, bytes, 2u << 20, MADV_HUGEPAGE); }
void glm_forget(void* data, int64_t bytes) { advise(data, bytes, (uintptr_t)sysconf(_SC_PAGESIZE), MADV_DONTNEED); }
#else
void glm_huge_pages(void*, int64_t) {}
void glm_forget(void*, int64_t) {}
#endif

void glm_run(const GlmProgram* program, const GlmStep* step) { run(program, step, nullptr); }

int glm_go_on(const GlmProgram* program, const GlmStep* step, const GlmAhead* ahead) {
  const int count = step->sequences;
  std::vector<int32_t> ids(step->ids, step->ids + count), cached(step->cached, step->cached + count);
  GlmStep now = *step;
  now.ids = ids.data(), now.cached = cached.data();
  for (int done = 0; done < ahead->steps; done++) {
    int32_t* chosen = ahead->chosen + done * count;
    const Choices choices = {ahead->choices, ahead->uniforms + done * count, chosen};
    now.positions = ahead->positions + done * 2 * count;
    run(program, &now, &choices);
    bool ended = false;
    for (int i = 0; i < count; i++) {
      if (chosen[i] < 0) return done;
      const GlmChoice& choice = ahead->choices[i];
      ended |= std::find(choice.ends, choice.ends + choice.end_count, chosen[i]) != choice.ends + choice.end_count;
      ids[i] = chosen[i], cached[i]++;
    }
    if (ended) return done + 1;
  }
  return ahead->steps;
}

int glm_choose(const float* logits, int count, const GlmChoice* choice, double uniform) {
  return choose(*kernels, logits, count, *choice, uniform);
}

uint64_t glm_read(const void* data, int64_t bytes) {
  Read read = {(const uint8_t*)data, bytes};
  Pool::run([](void* argument, Phases& phases) { ((Read*)argument)->walk(phases); }, &read);
  return read.total;
}
}
