// The suffix automaton of a growing text of tokens: where did the last tokens stand before? Every
// substring of the text is a path from the start; a state stands for substrings that end at the
// same places. Sources: Blumer et al. 1985; Hu et al. 2024 (SAM Decoding, arXiv 2411.10666) for
// drafting with it.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace tutti::decode::speculative {

class SuffixAutomaton {
 public:
  SuffixAutomaton();

  // O(1) amortised, but for a state whose followers are copied: then as many as there are.
  void append(int32_t token);
  const std::vector<int32_t>& text() const { return text_; }

  // The last `length` tokens of the text stood before text()[next], too.
  struct Match {
    int length = 0;
    int next = 0;
  };
  // Up to `count` of them, the longest first, no two with the same token at `next`: places where at
  // least `least` >= 1 and, unless `most` is 0, no more than `most` tokens are compared. Recent
  // places come first, as far as is known cheaply.
  std::vector<Match> matches(int least, int most, int count) const;

 private:
  struct State {
    int length = 0;  // of its longest substring
    int link = -1;   // the state of the longest suffix that ends elsewhere, too
    int end = 0;     // a place where its substrings end: after text_[end - 1]
    int edges = -1;  // the first of its list
  };
  struct Edge {
    int32_t token;
    int to;
    int next;  // in its state's list
  };
  static uint64_t key(int state, int32_t token) {
    return uint64_t(uint32_t(state)) << 32 | uint32_t(token);
  }
  int* follow(int state, int32_t token);
  void connect(int state, int32_t token, int to);
  int split(int state, int32_t token, int to);

  std::vector<int32_t> text_;
  std::vector<State> states_;
  std::vector<Edge> edges_;
  std::unordered_map<uint64_t, int> edge_of_;  // (state, token): its edge
  int last_ = 0;
};

}  // namespace tutti::decode::speculative
