#include "train/guess_report.h"

#include <algorithm>

#include "check/guess_kind.h"

namespace tutti::train {
namespace {

constexpr double kExpectedWeight = 3;
constexpr int kTop[3] = {1, 3, 5};

// The rank of what came, or beyond the last.
size_t rank_of_target(const Guessed& g) {
  return size_t(std::ranges::find(g.tokens, g.target) - g.tokens.begin());
}

}  // namespace

GuessReport judge_guesses(std::span<const Guessed> guesses, int offsets) {
  struct Share {
    double right = 0.2 * kExpectedWeight, seen = kExpectedWeight;
    void add(bool yes) { right += yes, seen += 1; }
  };
  std::vector<std::vector<Share>> kinds(size_t(offsets),
                                        std::vector<Share>(size_t(check::kGuessKinds) + 1));
  GuessReport report;
  report.accuracy.resize(size_t(offsets));
  bool before = true;  // the smaller offsets had the right token among the first
  for (const Guessed& g : guesses) {
    if (g.offset == 0) ++report.anchors, before = true;
    const size_t rank = rank_of_target(g), offset = size_t(g.offset);
    for (size_t t = 0; t < 3; ++t) report.accuracy[offset][t] += rank < size_t(kTop[t]);
    if (before) {
      kinds[offset].back().add(rank == 0);
      for (int r = 0; r < GuessReport::kBranches && size_t(r) < g.tokens.size(); ++r) {
        const double second = g.logits.size() > 1 ? g.logits[1] : g.logits[0] - 1e9;
        const int kind = check::guess_kind(r, g.logits[0], second, g.logits[size_t(r)]);
        kinds[offset][size_t(kind)].add(rank == size_t(r));
      }
    }
    before = before && rank < size_t(GuessReport::kBranches);
  }
  for (auto& line : report.accuracy) {
    for (double& share : line) share /= double(std::max<int64_t>(report.anchors, 1));
  }
  for (const auto& line : kinds) {
    report.acceptance.emplace_back();
    for (const Share& s : line) report.acceptance.back().push_back(s.right / s.seen);
  }
  return report;
}

}  // namespace tutti::train
