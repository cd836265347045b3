// What a template may cost. Templates come with models, from strangers: each step, byte and level
// is counted.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"

namespace tutti::text::jinja {

struct Limits {
  uint64_t steps = 50'000'000;           // nodes evaluated, elements visited
  uint64_t bytes = uint64_t(1) << 30;    // made over the whole rendering, live or not
  size_t value_bytes = size_t(1) << 26;  // of one text or collection, and of the output
  int depth = 800;                       // nested evaluations, macro calls included
};

class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}

  void step(uint64_t n = 1) {
    if (n > limits_.steps) throw Error(ErrorKind::kLimit, "the template takes too many steps");
    limits_.steps -= n;
  }
  // To be called before `n` bytes are made for one value.
  void make(uint64_t n) {
    if (n > limits_.value_bytes)
      throw Error(ErrorKind::kLimit, "the template makes too large a value");
    if (n > limits_.bytes) throw Error(ErrorKind::kLimit, "the template makes too much text");
    limits_.bytes -= n;
  }
  // n items of `each` bytes, guarded against overflow.
  void make(uint64_t n, uint64_t each) {
    if (each != 0 && n > limits_.value_bytes / each) make(UINT64_MAX);
    make(n * each);
  }
  // A search of a needle in a haystack may touch every pair of bytes.
  void search(size_t haystack, size_t needle) {
    step(1 + uint64_t(double(haystack) * double(needle) / 1024));
  }
  int depth() const { return limits_.depth; }

 private:
  Limits limits_;
};

}  // namespace tutti::text::jinja
