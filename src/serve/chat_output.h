// One choice of a chat from its tokens: thoughts, text and calls, as they become certain.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "serve/chat_prompt.h"
#include "text/detokenizer.h"
#include "text/reasoning_splitter.h"
#include "text/stop_strings.h"
#include "text/tool_call_parser.h"

namespace tutti::serve {

struct ChatDelta {
  std::string reasoning;
  text::ToolText text;
  bool empty() const { return reasoning.empty() && text.content.empty() && text.calls.empty(); }
};

class ChatOutput {
 public:
  // The tokenizer must outlive it.
  ChatOutput(const text::Tokenizer& tokenizer, const TextRequest& request, const ChatPrompt& prompt,
             bool thinks);

  // What the tokens add. Marks of calls count where they are control tokens, which text leaves out.
  ChatDelta push(std::span<const int32_t> ids);
  ChatDelta finish();
  int calls() const { return parser_.calls(); }
  int reasoning_tokens() const { return reasoning_tokens_; }

 private:
  void read(std::string_view text, ChatDelta& out);
  // Where a second call is not wanted.
  void drop_calls(ChatDelta& out) const;
  bool is_mark(int32_t id) const;

  const text::Tokenizer& tokenizer_;
  text::StreamingDetokenizer detokenizer_;
  text::StopMatcher stops_;
  bool thinks_, parallel_;
  text::ReasoningSplitter splitter_;
  text::ToolCallParser parser_;
  std::vector<std::string_view> marks_;
  int reasoning_tokens_ = 0;
};

// OpenAI's objects for the calls of a delta, and of a message: ids are made where a call has none.
nlohmann::ordered_json delta_calls(const std::vector<text::ToolCallPiece>& pieces,
                                   text::ToolFormat format);
nlohmann::ordered_json message_calls(const std::vector<text::ToolCallPiece>& pieces,
                                     text::ToolFormat format);

}  // namespace tutti::serve
