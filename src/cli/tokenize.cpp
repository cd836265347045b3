// tutti tokenize: text to ids and back, line by line.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/session.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct TokenizeOptions {
  std::string model;
  std::string text;
  bool jsonl = false;
  bool decode = false;
  bool chat = false;
  bool json = false;
};

std::string dump(const Json& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); }

void tokenize(const TokenizeOptions& o) {
  const text::Tokenizer tokenizer = load_tokenizer(o.model);
  if (!o.jsonl) {
    const auto ids = tokenizer.encode(o.text);
    if (o.json) {
      std::cout << dump(Json{{"ids", ids}}) << '\n';
      return;
    }
    for (const int32_t id : ids) std::cout << id << '\t' << dump(Json(tokenizer.vocabulary()[id].text)) << '\n';
    return;
  }
  std::optional<text::ChatTemplate> chat;
  if (o.chat) {
    chat = chat_template_of(tokenizer);
    if (!chat) throw Error(ErrorKind::kUnsupported, "model " + o.model + ": has no chat template");
  }
  size_t number = 0;
  for (std::string line; std::getline(std::cin, line);) {
    ++number;
    try {
      const Json j = Json::parse(line);
      if (o.chat) {
        text::ChatOptions options;
        options.add_generation_prompt = true;
        const std::string prompt = chat->render(j, options);
        std::cout << dump(Json{{"prompt", prompt}, {"ids", tokenizer.encode(prompt)}}) << '\n';
      } else if (o.decode) {
        std::cout << dump(Json(tokenizer.decode(j.get<std::vector<int32_t>>()))) << '\n';
      } else {
        std::cout << dump(Json(tokenizer.encode(j.get<std::string>()))) << '\n';
      }
    } catch (const Json::exception& error) {
      throw Error(ErrorKind::kUsage, "standard input, line " + std::to_string(number) + ": " + error.what());
    }
  }
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto o = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "text to token ids and back");
  command->add_option("-m,--model", o->model, "a .gguf file (vocabulary alone will do), a folder, or a short name")
      ->required()
      ->envname("TUTTI_MODEL");
  command->add_option("-p,--text", o->text, "the text");
  command->add_flag("--jsonl", o->jsonl, "standard input: a JSON string a line; out: [ids] a line");
  command->add_flag("--decode", o->decode, "with --jsonl: [ids] a line to a string a line");
  command->add_flag("--chat", o->chat, "with --jsonl: an array of messages a line to {\"prompt\", \"ids\"}");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->callback([o] { tokenize(*o); });
}

}  // namespace tutti::cli
