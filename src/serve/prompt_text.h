// The tokens of what a request says. Long texts take seconds, so whoever makes them owns all that
// it touches, and may run on any thread.
#pragma once

#include <functional>

#include "serve/chat_prompt.h"
#include "serve/prompt_job.h"
#include "serve/served_model.h"
#include "serve/text_request.h"

namespace tutti::serve {

// Called once. The tokenizer, which is not copied, must be there until then. Throws ApiError(400):
// no tokens, unknown ones, or too many for the context.
using PromptReader = std::function<ReadPrompt()>;

PromptReader completion_reader(const ServedModel& model, const TextRequest& request, size_t prompt);

// Of a chat, `planned` by plan_chat. Takes the messages out of `request`. Throws what the template
// has against them, too.
PromptReader chat_reader(const ServedModel& model, TextRequest& request, const ChatPrompt& planned);

}  // namespace tutti::serve
