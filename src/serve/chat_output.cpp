#include "serve/chat_output.h"

#include <algorithm>
#include <random>

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

// Mistral's templates take ids of nine letters or digits and nothing else.
std::string new_call_id(text::ToolFormat format) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  constexpr char kLetters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
  const bool mistral =
      format == text::ToolFormat::kMistral || format == text::ToolFormat::kMistralArgs;
  std::string id = mistral ? "" : "call_";
  for (int i = mistral ? 9 : 24; i > 0; --i) id += kLetters[random() % 36];
  return id;
}

std::vector<std::string> names_of(const ToolRequest& tools) {
  std::vector<std::string> names;
  for (const auto& f : tools.functions) names.push_back(f.name);
  return names;
}

}  // namespace

ChatOutput::ChatOutput(const text::Tokenizer& tokenizer, const TextRequest& request,
                       const ChatPrompt& prompt, bool thinks)
    : tokenizer_(tokenizer),
      detokenizer_(tokenizer, false),
      stops_(request.options.stop),
      // A text that a grammar or a call has begun holds no thought.
      thinks_(thinks && !prompt.forced && !request.grammar),
      parallel_(request.tools.parallel),
      splitter_(prompt.in_thought),
      parser_(prompt.tools, names_of(request.tools),
              prompt.forced ? prompt.forced->opened() : text::OpenedCall()),
      marks_(text::tool_markers(prompt.tools)) {
  if (thinks_) {
    marks_.push_back(text::kThinkOpen);
    marks_.push_back(text::kThinkClose);
  }
}

bool ChatOutput::is_mark(int32_t id) const {
  return std::ranges::find(marks_, tokenizer_.token_bytes(id)) != marks_.end();
}

void ChatOutput::read(std::string_view text, ChatDelta& out) {
  if (!thinks_) return parser_.push(text, out.text);
  std::string answer;
  splitter_.push(text, out.reasoning, answer);
  parser_.push(answer, out.text);
}

ChatDelta ChatOutput::push(std::span<const int32_t> ids) {
  ChatDelta out;
  for (const int32_t id : ids) {
    const bool control = tokenizer_.is_control(id);
    if (control && !is_mark(id)) continue;
    if (thinks_ && splitter_.inside()) ++reasoning_tokens_;
    const std::string text = detokenizer_.push(id);
    if (!control) {
      read(stops_.push(text), out);
    } else if (!stops_.stopped()) {
      // Stop strings are looked for in text, of which control tokens are no part.
      read(stops_.flush(), out);
      read(text, out);
    }
  }
  drop_calls(out);
  return out;
}

ChatDelta ChatOutput::finish() {
  ChatDelta out;
  read(stops_.push(detokenizer_.flush()), out);
  read(stops_.flush(), out);
  if (thinks_) {
    std::string answer;
    splitter_.finish(out.reasoning, answer);
    parser_.push(answer, out.text);
  }
  parser_.finish(out.text);
  drop_calls(out);
  return out;
}

void ChatOutput::drop_calls(ChatDelta& out) const {
  if (!parallel_) std::erase_if(out.text.calls, [](const auto& piece) { return piece.index > 0; });
}

Json delta_calls(const std::vector<text::ToolCallPiece>& pieces, text::ToolFormat format) {
  Json calls = Json::array();
  for (const text::ToolCallPiece& piece : pieces) {
    Json call{{"index", piece.index}};
    Json function = Json::object();
    if (!piece.name.empty()) {
      call["id"] = piece.id.empty() ? new_call_id(format) : piece.id;
      call["type"] = "function";
      function["name"] = piece.name;
    }
    function["arguments"] = piece.arguments;
    call["function"] = std::move(function);
    calls.push_back(std::move(call));
  }
  return calls;
}

Json message_calls(const std::vector<text::ToolCallPiece>& pieces, text::ToolFormat format) {
  Json calls = Json::array();
  for (const text::ToolCallPiece& piece : pieces) {
    if (!piece.name.empty()) {
      calls.push_back({{"id", piece.id.empty() ? new_call_id(format) : piece.id},
                       {"type", "function"},
                       {"function", {{"name", piece.name}, {"arguments", piece.arguments}}}});
    } else {
      Json& arguments = calls.back()["function"]["arguments"];
      arguments = arguments.get<std::string>() + piece.arguments;
    }
  }
  return calls;
}

}  // namespace tutti::serve
