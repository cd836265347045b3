// Register loops for the compute roof (peak.h), one multiply-add at a time as the scalar level
// computes.
#include <cmath>

#include "tensor/peak.h"

namespace tutti::tensor::scalar {
namespace {

constexpr int kChains = 4;

template <class T>
inline void touch(T& x) {
  __asm__ volatile("" : "+m"(x));
}

template <class T, class Step>
void chains(int rounds, T w, Step step) {
  T sum[kChains] = {};
  for (int i = 0; i < rounds; ++i) {
    touch(w);
    for (T& s : sum) s = step(s, w);
  }
  for (T& s : sum) touch(s);
}

}  // namespace

int peak(Peak peak, int rounds) {
  if (peak == Peak::kFloat) {
    chains(rounds, 0.5f, [](float sum, float w) { return std::fma(sum, w, w); });
  } else {
    chains(rounds, 3, [](int sum, int w) { return sum + w * w; });
  }
  return kChains;
}

}  // namespace tutti::tensor::scalar
