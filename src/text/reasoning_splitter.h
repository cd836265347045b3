// What a model thinks before it answers, taken apart from the answer as the text comes: "<think> …
// </think>" (DeepSeek-R1, Qwen3). The result does not depend on how the text is cut into pieces.
#pragma once

#include <string>
#include <string_view>

namespace tutti::text {

inline constexpr std::string_view kThinkOpen = "<think>", kThinkClose = "</think>";

// Whether a prompt ends inside of a model's thoughts, as some templates begin them.
bool ends_in_thought(std::string_view prompt);

class ReasoningSplitter {
 public:
  // `inside`: the prompt has begun the thought. Otherwise the text may begin one; later tags are
  // text.
  explicit ReasoningSplitter(bool inside = false)
      : state_(inside ? State::kThought : State::kStart) {}

  // White space at either end of the thought, and before the answer behind it, is dropped.
  void push(std::string_view text, std::string& reasoning, std::string& content);
  void finish(std::string& reasoning, std::string& content);
  bool inside() const { return state_ == State::kThought; }

 private:
  enum class State { kStart, kThought, kBehind, kAnswer };
  void think(std::string_view text, std::string& reasoning);

  State state_;
  bool thought_ = false;  // something but white space
  std::string held_;      // perhaps a part of a tag
  std::string blanks_;    // of the thought, which go out when it goes on
};

}  // namespace tutti::text
