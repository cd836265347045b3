#include "serve/prompt_text.h"

#include <memory>
#include <string>
#include <utility>

#include "serve/api_error.h"

namespace tutti::serve {
namespace {

void check_room(const std::vector<int32_t>& prompt, int context, int max_tokens,
                const char* field) {
  if (prompt.empty()) throw invalid("prompt: is empty; give at least one token", "prompt");
  const int tokens = int(prompt.size());
  if (tokens < context || (max_tokens == 0 && tokens == context)) return;
  const std::string wanted =
      max_tokens < 0 ? "" : " and " + std::to_string(max_tokens) + " to be generated";
  throw ApiError(400, "invalid_request_error",
                 "prompt: " + std::to_string(tokens) + " tokens" + wanted +
                     " do not fit the context of " + std::to_string(context) +
                     " tokens; shorten it",
                 field, "context_length_exceeded");
}

std::vector<int32_t> tokens_of(const text::Tokenizer& tokenizer, TextRequest::Prompt prompt) {
  if (!prompt.ids) {
    text::EncodeOptions options;
    options.add_bos = tokenizer.add_bos_default();
    return tokenizer.encode(prompt.text, options);
  }
  for (const int32_t id : *prompt.ids) {
    if (id >= tokenizer.vocab_size())
      throw invalid("prompt: token " + std::to_string(id) + " is not in the vocabulary", "prompt");
  }
  return std::move(*prompt.ids);
}

}  // namespace

PromptReader completion_reader(const ServedModel& model, const TextRequest& request,
                               size_t prompt) {
  return [&tokenizer = *model.tokenizer, context = model.config().context_length,
          max_tokens = request.options.max_tokens, prompt = request.prompts[prompt]]() mutable {
    ReadPrompt read;
    read.tokens = tokens_of(tokenizer, std::move(prompt));
    check_room(read.tokens, context, max_tokens, "prompt");
    return read;
  };
}

PromptReader chat_reader(const ServedModel& model, TextRequest& request,
                         const ChatPrompt& planned) {
  const auto chat = std::make_shared<TextRequest>();
  chat->messages = std::move(request.messages);
  chat->template_options = std::move(request.template_options);
  chat->add_generation_prompt = request.add_generation_prompt;
  chat->tools = request.tools;
  chat->grammar = request.grammar;
  return [&tokenizer = *model.tokenizer, written_by = *model.chat, format = model.format,
          context = model.config().context_length, max_tokens = request.options.max_tokens, chat,
          prompt = planned]() mutable {
    write_chat(written_by, format, *chat, prompt);
    ReadPrompt read;
    read.tokens = tokenizer.encode(prompt.text);
    read.in_thought = prompt.in_thought;
    check_room(read.tokens, context, max_tokens, "messages");
    return read;
  };
}

}  // namespace tutti::serve
