// A stream of numbers that is the same on every machine and run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/philox.h"

namespace tutti {

class Draws {
 public:
  // For tests.
  explicit Draws(uint64_t seed) {
    key_.seed = seed;
    key_.purpose = Purpose::kTest;
  }
  explicit Draws(const DrawKey& key) : key_(key) {}
  uint32_t word() { return draw_word(key_, index_++); }
  int below(int n) { return int(word() % uint32_t(n)); }  // 0..n-1, n > 0
  float uniform(float low, float high) { return low + (high - low) * uniform_open(word()); }
  bool chance(double p) { return double(uniform_open(word())) < p; }
  template <class T>
  void shuffle(std::vector<T>& v) {
    for (size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[size_t(below(int(i)))]);
  }

 private:
  DrawKey key_;
  uint32_t index_ = 0;
};

}  // namespace tutti
