#include "pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
static inline void relax() { _mm_pause(); }
#elif defined(__aarch64__)
static inline void relax() { asm volatile("yield"); }
#else
static inline void relax() {}
#endif

namespace {

enum { SPINS = 4000 };            // some tens of microseconds; after that the processor is offered to others
enum : int64_t { PIECE = 4096 };  // bytes fetched between two looks for a new run

template <class T>
struct alignas(128) Shared {  // a cache line of its own, and its neighbour, which processors fetch along
  std::atomic<T> value{0};
};

struct State {
  int threads = 1;
  Shared<int64_t> next, done;      // units given out and finished, over all phases of the run
  Shared<int> job, active, open;   // runs so far; threads besides the caller in this one; whether more may join
  std::atomic<int> generation{0};  // of threads: those of an older one end
  void (*body)(void*, Phases&) = nullptr;
  void* argument = nullptr;
  Bytes next_run = {nullptr, 0};
  std::mutex sleep, one_at_a_time;
  std::condition_variable wake;
};
State* current = new State;  // never destroyed: threads may outlive static destructors

uint64_t now() {
  return (uint64_t)std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class Done>
void wait_until(Done done) {
  for (int spin = 0; !done(); spin++) spin < SPINS ? relax() : std::this_thread::yield();
}

void work(int generation, int number, int seen) {
  State& state = *current;
  const auto news = [&] { return state.job.value.load() != seen; };
  for (;;) {
    for (int spin = 0; spin < SPINS && !news(); spin++) relax();
    if (!news()) {
      std::unique_lock<std::mutex> lock(state.sleep);
      state.wake.wait(lock, news);
    }
    seen = state.job.value.load();
    if (state.generation.load() != generation) return;
    Bytes next = {nullptr, 0};
    state.active.value.fetch_add(1);
    if (state.open.value.load()) {  // else the run went by without this thread
      Phases phases;
      state.body(state.argument, phases);
      next = state.next_run;
    }
    const int others = state.threads - 1;
    state.active.value.fetch_sub(1);
    for (int64_t at = number * PIECE; at < next.count && !news(); at += others * PIECE)
      for (int64_t i = at; i < at + PIECE && i < next.count; i += 64)
        __builtin_prefetch(next.from + i, 0, 2);  // no fault, whatever is there now
  }
}

void publish(State& state) {
  {
    std::lock_guard<std::mutex> lock(state.sleep);
    state.job.value.fetch_add(1);
  }
  state.wake.notify_all();
}

}  // namespace

// The next piece of a phase that nobody has; pieces shrink towards its end, so that all finish together.
bool Phases::take(int64_t end, int64_t* first, int64_t* last) {
  State& state = *current;
  int64_t at = state.next.value.load(std::memory_order_relaxed), size;
  do {
    if (at >= end) return false;
    size = std::max<int64_t>(1, (end - at) / (2 * state.threads));
  } while (!state.next.value.compare_exchange_weak(at, at + size, std::memory_order_relaxed));
  *first = at, *last = at + size;
  return true;
}

void Phases::finish(int64_t units, int64_t end) {
  State& state = *current;
  if (state.done.value.fetch_add(units, std::memory_order_acq_rel) + units == end && ended) *ended = now();
}

void Phases::wait(int64_t end) {
  wait_until([&state = *current, end] { return state.done.value.load(std::memory_order_acquire) >= end; });
}

int Pool::threads() { return current->threads; }

void Pool::start(int threads) {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { current = new State; });  // a forked child has none of its parent's threads
  (void)registered;
  State& state = *current;
  std::lock_guard<std::mutex> lock(state.one_at_a_time);
  if (threads == state.threads) return;
  const int generation = state.generation.fetch_add(1) + 1;
  publish(state);
  state.threads = threads;
  for (int i = 1; i < threads; i++) std::thread(work, generation, i - 1, state.job.value.load()).detach();
}

void Pool::run(void (*body)(void*, Phases&), void* argument, Bytes next) {
  State& state = *current;
  std::lock_guard<std::mutex> lock(state.one_at_a_time);
  state.next.value.store(0), state.done.value.store(0);
  state.body = body, state.argument = argument, state.next_run = next;
  if (state.threads > 1) {
    state.open.value.store(1);
    publish(state);
  }
  Phases phases;
  body(argument, phases);
  state.open.value.store(0);
  wait_until([&] { return state.active.value.load() == 0; });  // what the others look at belongs to the caller
}
