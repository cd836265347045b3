// tutti tokenize: text to ids and back, line by line.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/session.h"
#include "cli/text_input.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct TokenizeOptions {
  std::string model;
  std::string text;
  std::string file = "-";
  bool has_text = false;
  bool jsonl = false;
  bool decode = false;
  bool chat = false;
  bool json = false;
};

std::string string_of(const Json& j) {
  if (!j.is_string()) throw Error(ErrorKind::kUsage, "is no JSON string");
  return j.get<std::string>();
}

std::vector<int32_t> ids_of(const Json& j) {
  std::vector<int32_t> ids;
  for (const Json& id : j.is_array() ? j : Json::array({nullptr})) {
    // Unsigned first: the range of int32 is checked in the widest type of its sign.
    if (!id.is_number_integer() || (id.is_number_unsigned() && id.get<uint64_t>() > INT32_MAX) ||
        (!id.is_number_unsigned() && id.get<int64_t>() < INT32_MIN)) {
      throw Error(ErrorKind::kUsage, "is no JSON array of token ids");
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void tokenize_lines(const TokenizeOptions& o, const text::Tokenizer& tokenizer) {
  std::optional<text::ChatTemplate> chat;
  if (o.chat) {
    chat = chat_template_of(tokenizer);
    if (!chat)
      throw Error(ErrorKind::kUnsupported,
                  "model " + o.model + ": has no chat template (a base model)");
  }
  size_t number = 0;
  for (std::string line; std::getline(std::cin, line);) {
    ++number;
    try {
      const Json j = parse_json(line);
      if (o.chat) {
        text::ChatOptions options;
        options.add_generation_prompt = true;
        const std::string prompt = chat->render(j, options);
        std::cout << print_json(Json{{"prompt", prompt}, {"ids", tokenizer.encode(prompt)}})
                  << '\n';
      } else if (o.decode) {
        std::cout << print_json(Json(tokenizer.decode(ids_of(j)))) << '\n';
      } else {
        std::cout << print_json(Json(tokenizer.encode(string_of(j)))) << '\n';
      }
    } catch (const Error& error) {
      throw Error(error.kind(),
                  "standard input, line " + std::to_string(number) + ": " + error.what());
    }
  }
}

void tokenize(const TokenizeOptions& o) {
  if ((o.decode || o.chat) && !o.jsonl) {
    throw Error(ErrorKind::kUsage,
                "tokenize: --decode and --chat read lines of JSON; give --jsonl with them");
  }
  if (o.decode && o.chat)
    throw Error(ErrorKind::kUsage, "tokenize: give one of --decode and --chat");
  const text::Tokenizer tokenizer = load_tokenizer(o.model);
  if (o.jsonl) return tokenize_lines(o, tokenizer);
  const auto ids = tokenizer.encode(o.has_text ? o.text : read_input(o.file));
  if (o.json) {
    std::cout << print_json(Json{{"ids", ids}}) << '\n';
    return;
  }
  for (const int32_t id : ids)
    std::cout << id << '\t' << print_json(Json(tokenizer.vocabulary()[id].text)) << '\n';
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto o = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "text to token ids and back");
  command
      ->add_option("-m,--model", o->model,
                   "a .gguf file (vocabulary alone will do), a folder, or a short name")
      ->required()
      ->envname("TUTTI_MODEL");
  CLI::Option* text = command->add_option("-p,--text,--prompt", o->text, "the text");
  CLI::Option* file =
      command->add_option("-f,--file", o->file, "read the text from a file; -: standard input")
          ->capture_default_str()
          ->excludes(text);
  command->add_flag("--jsonl", o->jsonl, "standard input: a JSON string a line; out: [ids] a line")
      ->excludes(text)
      ->excludes(file);
  command->add_flag("--decode", o->decode, "with --jsonl: [ids] a line to a string a line");
  command->add_flag("--chat", o->chat,
                    "with --jsonl: an array of messages a line to {\"prompt\", \"ids\"}");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->callback([o, text] {
    o->has_text = text->count() > 0;
    tokenize(*o);
  });
}

}  // namespace tutti::cli
