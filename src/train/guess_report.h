// How good guesses of tokens further on are, on texts that were not trained.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace tutti::train {

// One row's best guesses, the best first, and the token that came.
struct Guessed {
  int offset = 0;  // 0: the token after the next
  std::vector<int64_t> tokens;
  std::vector<float> logits;
  int64_t target = 0;
};

struct GuessReport {
  int64_t anchors = 0;
  // By offset: the share of guesses that were among the first 1, 3, 5.
  std::vector<std::array<double, 3>> accuracy;
  // By offset and kind (check::guess_kind, of the logits), and of any first choice: the share that
  // was right, of those where all smaller offsets had the right token among the first kBranches.
  // Each begins as three guesses of a share that is expected anyway.
  std::vector<std::vector<double>> acceptance;

  static constexpr int kBranches = 4;
  static constexpr int kRanks = 8;  // of Guessed
};

// Of anchors one after the other, each with guesses for offsets 0, 1, … `offsets` - 1.
GuessReport judge_guesses(std::span<const Guessed> guesses, int offsets);

}  // namespace tutti::train
