// The threads that share a step. Work goes on as long as anybody works: a phase is over when all its units are done,
// not when all threads have come by, so a thread that the system has put aside holds up only what it has in hand. The
// caller works too; the others spin for a moment and then sleep between runs.
#pragma once
#include <stdint.h>

#include "kernels.h"

// One thread's walk through the phases of a run. All threads pass the same phases, whether they find work in them or
// not. Of each phase a thread takes the same part of the units, if it can: what it fetched early is then in its own
// cache. Only when that is done it takes from the parts of others.
class Phases {
 public:
  explicit Phases(int number) : number_(number) {}

  uint64_t* ended = nullptr;  // where to note, in nanoseconds, when a phase that has units ends

  // Calls work(first, last) for pieces of [0, units) until all are done, by whomever.
  template <class Work>
  void share(int units, Work work) {
    int64_t first, last;
    while (take(units, &first, &last)) {
      work((int)(first - begin_), (int)(last - begin_));
      finish(last - first, begin_ + units);
    }
    wait(begin_ + units);
    begin_ += units;
  }

  // What a phase to come reads front to back, each thread its part: the beginning of it is fetched while this thread
  // waits for others, or has nothing to do.
  void expect(Bytes all);

 private:
  bool take(int64_t units, int64_t* first, int64_t* last);
  void finish(int64_t units, int64_t end);
  void wait(int64_t end);
  const int number_;
  int64_t begin_ = 0;
  const uint8_t* next_ = nullptr;
  Bytes soon_ = {nullptr, 0};
};

struct Pool {
  static int threads();
  static void start(int threads);
  // Runs body(argument, phases) on the caller and on whoever is awake. One call at a time; others wait for it.
  // Afterwards the other threads fetch `next`, with which another run will probably begin, while the caller is busy
  // elsewhere; it may be gone by then.
  static void run(void (*body)(void*, Phases&), void* argument, Bytes next = {nullptr, 0});
};
