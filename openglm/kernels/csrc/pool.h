// The threads that share a step. The caller is thread 0; the others spin between the operations of a step and sleep between steps.
#pragma once
#include <stdint.h>

struct Pool {
  static int threads();
  static void start(int threads);
  // Runs body(argument, thread) on all threads; returns when all are through. One call at a time.
  static void run(void (*body)(void*, int), void* argument);
  // Inside a body: waits for all threads; afterwards a new round of `take` begins.
  static void barrier();
  // When the last barrier let go, in nanoseconds; kept only while `timed`.
  static bool timed;
  static uint64_t released();
  // The next piece of [0, total) that nobody has; pieces shrink towards the end, so that a thread that was held up holds up nobody.
  static bool take(int total, int* first, int* last);
};
