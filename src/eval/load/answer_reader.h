// What a client learns from an answer of /v1/chat/completions or /v1/completions, streamed or
// whole.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tutti::eval {

class AnswerReader {
 public:
  // One event of a stream, or a whole answer, that is here at `now` (seconds of any clock).
  void event(std::string_view data, double now);
  void whole(std::string_view body);

  bool done() const { return done_; }  // the last event, "[DONE]", or the whole answer was read
  // What is wrong with the answer, in words; empty: nothing so far.
  const std::string& error() const { return error_; }
  // When the first text came, and the last; negative: none came.
  double first_text() const { return first_; }
  double last_text() const { return last_; }
  const std::vector<double>& gaps() const { return gaps_; }  // seconds between pieces of text
  size_t pieces() const { return pieces_; }                  // events that carried text
  // As the server counts them; without a count, pieces stand for output tokens.
  uint64_t prompt_tokens() const { return prompt_tokens_; }
  uint64_t cached_tokens() const { return cached_tokens_; }
  uint64_t output_tokens() const { return counted_ ? output_tokens_ : pieces_; }
  bool counted() const { return counted_; }

 private:
  void read(std::string_view json, double now, bool streamed);

  bool done_ = false, counted_ = false, finished_ = false;
  std::string error_;
  double first_ = -1, last_ = -1;
  std::vector<double> gaps_;
  size_t pieces_ = 0;
  uint64_t prompt_tokens_ = 0, cached_tokens_ = 0, output_tokens_ = 0;
};

// The message of an error's body, or the beginning of whatever it is.
std::string error_message(std::string_view body);

}  // namespace tutti::eval
