#include "text/sentencepiece_bpe.h"

#include <map>
#include <queue>
#include <utility>

#include "text/unicode.h"

namespace tutti::text {
namespace {

constexpr size_t kEnd = SIZE_MAX;

struct Symbol {
  size_t begin, size;  // bytes of the text; size 0: merged into its left neighbour
  size_t previous, next;
};

struct Candidate {
  float score;
  size_t left, right;
  size_t size;  // of both together when it was found: another size now means that it is stale
  bool operator<(const Candidate& other) const {
    return score != other.score ? score < other.score : left > other.left;
  }
};

class Encoding {
 public:
  Encoding(const Vocabulary& vocabulary, const std::vector<int32_t>& byte_ids, int32_t unknown,
           std::string_view text, std::vector<int32_t>& ids)
      : vocabulary_(vocabulary), byte_ids_(byte_ids), unknown_(unknown), text_(text), ids_(ids) {}

  void run() {
    for (size_t at = 0; at < text_.size();) {
      const Decoded decoded = decode_utf8(text_, at);
      const size_t size = decoded.valid ? decoded.length : 1;
      symbols_.push_back({at, size, symbols_.empty() ? kEnd : symbols_.size() - 1,
                          at + size < text_.size() ? symbols_.size() + 1 : kEnd});
      at += size;
    }
    for (size_t i = 0; i + 1 < symbols_.size(); ++i) offer(i, i + 1);
    while (!queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      Symbol& left = symbols_[best.left];
      Symbol& right = symbols_[best.right];
      if (left.size == 0 || right.size == 0 || left.size + right.size != best.size) continue;
      left.size = best.size;
      right.size = 0;
      left.next = right.next;
      if (right.next != kEnd) symbols_[right.next].previous = best.left;
      if (left.previous != kEnd) offer(left.previous, best.left);
      if (left.next != kEnd) offer(best.left, left.next);
    }
    for (size_t i = symbols_.empty() ? kEnd : 0; i != kEnd; i = symbols_[i].next) {
      emit(text_.substr(symbols_[i].begin, symbols_[i].size));
    }
  }

 private:
  void offer(size_t left, size_t right) {
    const Symbol& a = symbols_[left];
    const Symbol& b = symbols_[right];
    const std::string_view joined = text_.substr(a.begin, a.size + b.size);
    const int32_t id = vocabulary_.find(joined);
    if (id == kNoToken) return;
    const Token& token = vocabulary_[id];
    if (token.type != TokenType::kNormal && token.type != TokenType::kUserDefined &&
        token.type != TokenType::kUnused) {
      return;
    }
    queue_.push({token.score, left, right, joined.size()});
    if (token.type == TokenType::kUnused) {
      unused_.try_emplace(joined, text_.substr(a.begin, a.size), text_.substr(b.begin, b.size));
    }
  }

  // Unused tokens help merging but are never emitted: they fall apart again into what they were
  // made of.
  void emit(std::string_view whole) {
    std::vector<std::string_view> stack{whole};
    while (!stack.empty()) {
      const std::string_view piece = stack.back();
      stack.pop_back();
      const int32_t id = vocabulary_.find(piece);
      const TokenType type = id == kNoToken ? TokenType::kUnknown : vocabulary_[id].type;
      if (type == TokenType::kUnused) {
        const auto parts = unused_.find(piece);
        if (parts != unused_.end()) {
          stack.push_back(parts->second.second);
          stack.push_back(parts->second.first);
          continue;
        }
      }
      if (type == TokenType::kNormal || type == TokenType::kUserDefined ||
          type == TokenType::kUnused) {
        ids_.push_back(id);
        in_unknown_ = false;
      } else {
        emit_bytes(piece);
      }
    }
  }

  void emit_bytes(std::string_view piece) {
    for (const char c : piece) {
      if (byte_ids_[uint8_t(c)] == kNoToken) {
        if (!in_unknown_ && unknown_ != kNoToken) ids_.push_back(unknown_);
        in_unknown_ = true;
        return;
      }
    }
    for (const char c : piece) ids_.push_back(byte_ids_[uint8_t(c)]);
    in_unknown_ = false;
  }

  const Vocabulary& vocabulary_;
  const std::vector<int32_t>& byte_ids_;
  int32_t unknown_;
  std::string_view text_;
  std::vector<int32_t>& ids_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate> queue_;
  std::map<std::string_view, std::pair<std::string_view, std::string_view>> unused_;
  bool in_unknown_ = false;
};

}  // namespace

void encode_sentencepiece(const Vocabulary& vocabulary, const std::vector<int32_t>& byte_ids,
                          int32_t unknown, std::string_view text, std::vector<int32_t>& ids) {
  Encoding(vocabulary, byte_ids, unknown, text, ids).run();
}

}  // namespace tutti::text
