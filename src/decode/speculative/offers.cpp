#include "decode/speculative/offers.h"

#include <algorithm>

namespace tutti::decode::speculative {

int Offers::put(uint64_t tick, std::span<const double> reach, bool probing) {
  if (tick != tick_) {
    tick_ = tick;
    requests_ = 0;
    probing_ = false;
    drafts_.clear();
  }
  for (const double r : reach) drafts_.push_back({r, requests_});
  probing_ |= probing;
  sorted_ = false;
  taken_.reset();
  return requests_++;
}

void Offers::sort() {
  if (sorted_) return;
  sorted_ = true;
  std::stable_sort(drafts_.begin(), drafts_.end(), [](const Draft& a, const Draft& b) {
    return std::pair(-a.reach, a.request) < std::pair(-b.reach, b.request);
  });
  reaches_.clear();
  for (const Draft& draft : drafts_) reaches_.push_back(draft.reach);
}

std::span<const double> Offers::reaches() {
  sort();
  return reaches_;
}

int Offers::part(int request, int taken) {
  sort();
  return int(std::count_if(drafts_.begin(),
                           drafts_.begin() + std::min(size_t(taken), drafts_.size()),
                           [&](const Draft& draft) { return draft.request == request; }));
}

}  // namespace tutti::decode::speculative
