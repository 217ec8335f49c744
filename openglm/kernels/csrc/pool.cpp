#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <pthread.h>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
static inline void relax() { _mm_pause(); }
#elif defined(__aarch64__)
static inline void relax() { asm volatile("yield"); }
#else
static inline void relax() {}
#endif

namespace {

enum { SPINS = 4000 };  // some tens of microseconds; after that the processor is offered to others

struct alignas(128) Counter {
  std::atomic<int> value{0};
};

struct State {
  int threads = 1;
  Counter arrived, round, next, job, generation;
  void (*body)(void*, int) = nullptr;
  void* argument = nullptr;
  uint64_t released = 0;
  std::mutex sleep, one_at_a_time;
  std::condition_variable wake;
};
State* current = new State;  // never destroyed: threads may outlive static destructors

uint64_t now() { return (uint64_t)std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class Done> void wait_until(Done done) {
  for (int spin = 0; !done(); spin++) spin < SPINS ? relax() : std::this_thread::yield();
}

void work(int thread, int generation, int seen) {
  State& state = *current;
  for (;;) {
    for (int spin = 0; spin < SPINS && state.job.value.load(std::memory_order_acquire) == seen; spin++) relax();
    if (state.job.value.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(state.sleep);
      state.wake.wait(lock, [&] { return state.job.value.load(std::memory_order_acquire) != seen; });
    }
    seen = state.job.value.load(std::memory_order_acquire);
    if (state.generation.value.load() != generation) return;
    state.body(state.argument, thread);
    Pool::barrier();
  }
}

void publish(State& state) {
  {
    std::lock_guard<std::mutex> lock(state.sleep);
    state.job.value.fetch_add(1, std::memory_order_release);
  }
  state.wake.notify_all();
}

}  // namespace

bool Pool::timed = false;
uint64_t Pool::released() { return current->released; }
int Pool::threads() { return current->threads; }

void Pool::start(int threads) {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { current = new State; });  // a forked child has none of its parent's threads
  (void)registered;
  State& state = *current;
  std::lock_guard<std::mutex> lock(state.one_at_a_time);
  if (threads == state.threads) return;
  const int generation = state.generation.value.fetch_add(1) + 1;
  publish(state);  // threads of an older pool see the new generation and end
  state.threads = threads;
  for (int i = 1; i < threads; i++) std::thread(work, i, generation, state.job.value.load()).detach();
}

void Pool::run(void (*body)(void*, int), void* argument) {
  State& state = *current;
  std::lock_guard<std::mutex> lock(state.one_at_a_time);
  state.next.value.store(0, std::memory_order_relaxed);
  state.body = body, state.argument = argument;
  if (timed) state.released = now();
  if (state.threads > 1) publish(state);
  body(argument, 0);
  barrier();
}

void Pool::barrier() {
  State& state = *current;
  const int round = state.round.value.load(std::memory_order_relaxed);
  if (state.arrived.value.fetch_add(1, std::memory_order_acq_rel) + 1 == state.threads) {
    state.arrived.value.store(0, std::memory_order_relaxed);
    state.next.value.store(0, std::memory_order_relaxed);
    if (timed) state.released = now();
    state.round.value.store(round + 1, std::memory_order_release);
  } else {
    wait_until([&] { return state.round.value.load(std::memory_order_acquire) != round; });
  }
}

bool Pool::take(int total, int* first, int* last) {
  State& state = *current;
  int at = state.next.value.load(std::memory_order_relaxed), size;
  do {
    if (at >= total) return false;
    size = std::max(1, (total - at) / (2 * state.threads));
  } while (!state.next.value.compare_exchange_weak(at, at + size, std::memory_order_relaxed));
  *first = at, *last = at + size;
  return true;
}
