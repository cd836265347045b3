// Text of a growing sequence of tokens: what has been given out never changes, and is always whole
// UTF-8.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace tutti::text {

// The pieces that `push` and `flush` return, put together, are `tokenizer.decode(ids,
// skip_special)`.
class StreamingDetokenizer {
 public:
  // The tokenizer must outlive it.
  explicit StreamingDetokenizer(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // Text that this token completes; empty while a character is still in the making. Malformed bytes
  // come out as U+FFFD. Throws Error(kUsage) for an id outside the vocabulary.
  std::string push(int32_t id);
  // The end of the sequence: an unfinished character comes out as U+FFFD. Starts anew.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  bool first_ = true;    // no text token yet: SentencePiece's leading space is still to be dropped
  std::string pending_;  // at most 3 bytes between calls
};

}  // namespace tutti::text
