// From a chat to the text that the model goes on from.
#pragma once

#include <optional>
#include <string>

#include "serve/chat_format.h"
#include "serve/text_request.h"
#include "text/chat_template.h"

namespace tutti::serve {

struct ChatPrompt {
  std::string text;
  text::ToolFormat tools = text::ToolFormat::kNone;  // the calls that the answer may hold
  bool in_thought = false;                           // the text ends inside of a thought
  std::optional<text::ToolCallRule> forced;          // the answer is a call; the text begins it
};

// What the answer may hold, whatever the messages say. Throws ApiError.
ChatPrompt plan_chat(const ChatFormat& format, const TextRequest& request);

// Writes the text of a chat that is planned, in time that grows with the messages. Tools that the
// template does not speak of are told in a system message, and their calls and results written as
// text. A thought that the template begins is ended where the answer is bound to a grammar, which
// leaves none. Throws what the template has against the messages.
void write_chat(const text::ChatTemplate& chat, const ChatFormat& format,
                const TextRequest& request, ChatPrompt& prompt);

}  // namespace tutti::serve
