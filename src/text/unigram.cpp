#include "text/unigram.h"

#include <algorithm>
#include <limits>

#include "text/unicode.h"

namespace tutti::text {
namespace {

constexpr float kUnknownPenalty = 10.0f;  // below the lowest score

// The best way to a place in the text.
struct Node {
  int32_t id =
      kNoToken;  // of the piece that ends here; kNoToken with a `begin`: an unknown character
  float score = 0;
  size_t begin = SIZE_MAX;  // SIZE_MAX: not reached
};

struct Scores {
  float lowest = std::numeric_limits<float>::max(), highest = std::numeric_limits<float>::lowest();
};

Scores scores_of(const Vocabulary& vocabulary) {
  Scores s;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary[id].type != TokenType::kNormal) continue;
    s.lowest = std::min(s.lowest, vocabulary[id].score);
    s.highest = std::max(s.highest, vocabulary[id].score);
  }
  return s;
}

}  // namespace

void encode_unigram(const Vocabulary& vocabulary, const std::vector<int32_t>& byte_ids,
                    int32_t unknown, std::string_view text, std::vector<int32_t>& ids) {
  const Scores scores = scores_of(vocabulary);
  std::vector<Node> best(text.size() + 1);
  best[0].begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Decoded c = decode_utf8(text, at);
    const size_t length = c.length;
    const float so_far = best[at].score;
    bool single = false;  // the character has a piece of its own
    // Of equal sums the one that begins first stays.
    const auto offer = [&](size_t end, float score, int32_t id) {
      Node& node = best[end];
      if (node.begin == SIZE_MAX || score > node.score) node = {id, score, at};
    };
    for (size_t size = 1; size <= std::min(vocabulary.longest(), text.size() - at); ++size) {
      const int32_t id = vocabulary.find(text.substr(at, size));
      if (id == kNoToken) continue;
      const Token& token = vocabulary[id];
      if (token.type != TokenType::kNormal && token.type != TokenType::kUserDefined) continue;
      // A user-defined piece always wins.
      const float score =
          token.type == TokenType::kUserDefined ? float(size) * scores.highest - 0.1f : token.score;
      offer(at + size, score + so_far, id);
      single = single || size == length;
    }
    if (!single) offer(at + length, (scores.lowest - kUnknownPenalty) + so_far, kNoToken);
    at += length;
  }
  std::vector<size_t> ends;
  for (size_t end = text.size(); end > 0; end = best[end].begin) ends.push_back(end);
  bool in_unknown = false;
  for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
    const Node& node = best[*end];
    if (node.id != kNoToken) {
      ids.push_back(node.id);
      in_unknown = false;
      continue;
    }
    const std::string_view character = text.substr(node.begin, *end - node.begin);
    const bool spelled =
        std::ranges::all_of(character, [&](char b) { return byte_ids[uint8_t(b)] != kNoToken; });
    if (spelled) {
      for (const char b : character) ids.push_back(byte_ids[uint8_t(b)]);
    } else if (!in_unknown && unknown != kNoToken) {
      ids.push_back(unknown);
    }
    in_unknown = !spelled;
  }
}

}  // namespace tutti::text
