// The threads that share a step. Work goes on as long as anybody works: a phase is over when all its units are done,
// not when all threads have come by, so a thread that the system has put aside holds up only what it has in hand. The
// caller works too; the others spin for a moment and then sleep between runs.
#pragma once
#include <stdint.h>

// One thread's walk through the phases of a run. All threads pass the same phases, whether they find work in them or
// not.
class Phases {
 public:
  uint64_t* ended = nullptr;  // where to note, in nanoseconds, when a phase that has units ends

  // Calls work(first, last) for pieces of [0, units) until all are done, by whomever.
  template <class Work>
  void share(int units, Work work) {
    const int64_t end = begin_ + units;
    int64_t first, last;
    while (take(end, &first, &last)) {
      work((int)(first - begin_), (int)(last - begin_));
      finish(last - first, end);
    }
    wait(end);
    begin_ = end;
  }

 private:
  static bool take(int64_t end, int64_t* first, int64_t* last);
  void finish(int64_t units, int64_t end);
  static void wait(int64_t end);
  int64_t begin_ = 0;
};

struct Bytes {
  const uint8_t* from;
  int64_t count;
};

struct Pool {
  static int threads();
  static void start(int threads);
  // Runs body(argument, phases) on the caller and on whoever is awake. One call at a time; others wait for it.
  // Afterwards the other threads fetch `next`, with which another run will probably begin, while the caller is busy
  // elsewhere; it may be gone by then.
  static void run(void (*body)(void*, Phases&), void* argument, Bytes next = {nullptr, 0});
};
