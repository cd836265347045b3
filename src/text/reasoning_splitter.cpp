#include "text/reasoning_splitter.h"

#include <algorithm>
#include <utility>

namespace tutti::text {
namespace {

constexpr std::string_view kBlanks = " \n\r\t";

size_t leading_blanks(std::string_view text) {
  return std::min(text.find_first_not_of(kBlanks), text.size());
}

}  // namespace

bool ends_in_thought(std::string_view prompt) {
  const size_t last = prompt.find_last_not_of(kBlanks);
  return last != std::string_view::npos && prompt.substr(0, last + 1).ends_with(kThinkOpen);
}

void ReasoningSplitter::think(std::string_view text, std::string& reasoning) {
  for (const char c : text) {
    if (kBlanks.find(c) != std::string_view::npos) {
      blanks_ += c;
      continue;
    }
    if (thought_) reasoning += blanks_;
    blanks_.clear();
    thought_ = true;
    reasoning += c;
  }
}

void ReasoningSplitter::push(std::string_view text, std::string& reasoning, std::string& content) {
  if (state_ == State::kAnswer) {
    content += text;
    return;
  }
  held_ += text;
  if (state_ == State::kStart) {
    const size_t blanks = leading_blanks(held_);
    const std::string_view rest = std::string_view(held_).substr(blanks);
    if (rest.size() < kThinkOpen.size() && kThinkOpen.starts_with(rest)) return;
    if (!rest.starts_with(kThinkOpen)) {
      state_ = State::kAnswer;
      content += std::exchange(held_, {});
      return;
    }
    held_.erase(0, blanks + kThinkOpen.size());
    state_ = State::kThought;
  }
  if (state_ == State::kThought) {
    const size_t end = held_.find(kThinkClose);
    if (end == std::string::npos) {
      size_t n = std::min(kThinkClose.size() - 1, held_.size());
      while (n > 0 && !held_.ends_with(kThinkClose.substr(0, n))) --n;
      think(std::string_view(held_).substr(0, held_.size() - n), reasoning);
      held_.erase(0, held_.size() - n);
      return;
    }
    think(std::string_view(held_).substr(0, end), reasoning);
    blanks_.clear();
    held_.erase(0, end + kThinkClose.size());
    state_ = State::kBehind;
  }
  held_.erase(0, leading_blanks(held_));
  if (held_.empty()) return;
  state_ = State::kAnswer;
  content += std::exchange(held_, {});
}

void ReasoningSplitter::finish(std::string& reasoning, std::string& content) {
  if (state_ == State::kThought) think(std::exchange(held_, {}), reasoning);
  content += std::exchange(held_, {});
}

}  // namespace tutti::text
