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

enum { SPINS = 4000 };  // some tens of microseconds; after that the processor is offered to others
enum : int64_t {
  PIECE = 4096,    // bytes fetched between two looks for a new run
  GLANCE = 512,    // and between two looks whether a phase is over
  SOON = 1 << 18,  // that a thread fetches at most of what it expects
};

template <class T>
struct alignas(128) Shared {  // a cache line of its own, and its neighbour, which processors fetch along
  std::atomic<T> value{0};
};

struct State {
  int threads = 1;
  Shared<int64_t>* next = new Shared<int64_t>[1];  // up to where the units of each thread's part are given out
  Shared<int64_t> done;                            // units finished, over all phases of the run
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

void fetch(Bytes some) {
  for (int64_t i = 0; i < some.count; i += 64) __builtin_prefetch(some.from + i, 0, 2);  // no fault, whatever is there
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
      Phases phases(number + 1);
      state.body(state.argument, phases);
      next = state.next_run;
    }
    const int others = state.threads - 1;
    state.active.value.fetch_sub(1);
    for (int64_t at = number * PIECE; at < next.count && !news(); at += others * PIECE)
      fetch({next.from + at, std::min(+PIECE, next.count - at)});
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

// The next piece of a phase that nobody has; pieces shrink towards the end of a part, so that all finish together.
bool Phases::take(int64_t units, int64_t* first, int64_t* last) {
  State& state = *current;
  for (int i = 0; i < state.threads; i++) {
    const int part = (number_ + i) % state.threads;
    const int64_t begin = begin_ + units * part / state.threads, end = begin_ + units * (part + 1) / state.threads;
    std::atomic<int64_t>& next = state.next[part].value;
    int64_t at = next.load(std::memory_order_relaxed), from, size;
    do {
      from = std::max(at, begin);  // the part of an earlier phase ended before this one
      size = std::max<int64_t>(1, (end - from) / 2);
    } while (from < end && !next.compare_exchange_weak(at, from + size, std::memory_order_relaxed));
    if (from >= end) continue;
    *first = from, *last = from + size;
    return true;
  }
  return false;
}

void Phases::expect(Bytes all) {
  if (all.from == next_) return;
  next_ = all.from;
  const int threads = current->threads;
  soon_ = {all.from + all.count * number_ / threads, std::min<int64_t>(all.count / threads, SOON)};
}

void Phases::finish(int64_t units, int64_t end) {
  State& state = *current;
  if (state.done.value.fetch_add(units, std::memory_order_acq_rel) + units == end && ended) *ended = now();
}

void Phases::wait(int64_t end) {
  const auto over = [&state = *current, end] { return state.done.value.load(std::memory_order_acquire) >= end; };
  while (!over() && soon_.count) {
    const int64_t count = std::min<int64_t>(GLANCE, soon_.count);
    fetch({soon_.from, count});
    soon_ = {soon_.from + count, soon_.count - count};
  }
  wait_until(over);
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
  delete[] state.next;
  state.threads = threads, state.next = new Shared<int64_t>[threads];
  for (int i = 1; i < threads; i++) std::thread(work, generation, i - 1, state.job.value.load()).detach();
}

void Pool::run(void (*body)(void*, Phases&), void* argument, Bytes next) {
  State& state = *current;
  std::lock_guard<std::mutex> lock(state.one_at_a_time);
  for (int i = 0; i < state.threads; i++) state.next[i].value.store(0);
  state.done.value.store(0);
  state.body = body, state.argument = argument, state.next_run = next;
  if (state.threads > 1) {
    state.open.value.store(1);
    publish(state);
  }
  Phases phases(0);
  body(argument, phases);
  state.open.value.store(0);
  wait_until([&] { return state.active.value.load() == 0; });  // what the others look at belongs to the caller
}
