#include "check/guess_kind.h"

#include <span>

namespace tutti::check {
namespace {

constexpr double kLeads[kLeadKinds - 1] = {0.25, 0.5, 1, 2, 4};
constexpr double kLags[kLagKinds - 1] = {0.5, 1, 2, 4};

int place(std::span<const double> limits, double value) {
  int i = 0;
  while (i < int(limits.size()) && value >= limits[size_t(i)]) ++i;
  return i;
}

}  // namespace

int guess_kind(int rank, double first, double second, double own) {
  return rank == 0 ? place(kLeads, first - second) : kLeadKinds + place(kLags, first - own);
}

}  // namespace tutti::check
