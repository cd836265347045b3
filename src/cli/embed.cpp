// tutti embed: texts as vectors, or the states of their tokens.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/run_on.h"
#include "cli/session.h"
#include "decode/encoder_states.h"
#include "decode/pooled_states.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct EmbedCommand {
  ModelOptions model;
  std::vector<std::string> texts;
  bool jsonl = false, states = false;
};

// A text, or two.
struct Line {
  std::string first;
  std::optional<std::string> second;
};

Line line_of(const Json& j) {
  if (j.is_string()) return {j.get<std::string>(), std::nullopt};
  if (j.is_array() && j.size() == 2 && j[0].is_string() && j[1].is_string())
    return {j[0].get<std::string>(), j[1].get<std::string>()};
  throw Error(ErrorKind::kUsage, "is neither a string nor a pair of strings");
}

std::vector<Line> lines_of(const EmbedCommand& o) {
  std::vector<Line> lines;
  for (const std::string& text : o.texts) lines.push_back({text, std::nullopt});
  if (!o.jsonl) return lines;
  size_t number = 0;
  for (std::string text; std::getline(std::cin, text);) {
    ++number;
    try {
      lines.push_back(line_of(parse_json(text)));
    } catch (const Error& error) {
      throw Error(error.kind(),
                  "standard input, line " + std::to_string(number) + ": " + error.what());
    }
  }
  return lines;
}

decode::EncoderInput encoded(const Session& session, const Line& line) {
  const text::Tokenizer& tokenizer = session.tokenizer();
  if (line.second) {
    text::Tokenizer::Pair pair = tokenizer.encode_pair(line.first, *line.second);
    return {std::move(pair.ids), pair.second};
  }
  const auto options = decode::reading_options(tokenizer, session.model().config());
  return {tokenizer.encode(line.first, options), -1};
}

Task<void> print_states(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                        std::vector<decode::EncoderInput> inputs) {
  for (const decode::EncoderInput& input : inputs) {
    const auto states = co_await decode::encoder_states(engine, request, input);
    std::cout << print_json(Json{{"tokens", input.tokens}, {"states", states}}) << '\n';
  }
}

Task<void> print_vectors(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                         std::vector<decode::EncoderInput> inputs) {
  std::vector<std::vector<int32_t>> tokens;
  for (auto& input : inputs) tokens.push_back(std::move(input.tokens));
  for (const auto& v : co_await decode::pooled_states(engine, request, std::move(tokens)))
    std::cout << print_json(Json(v)) << '\n';
}

void embed(const EmbedCommand& o) {
  const std::vector<Line> lines = lines_of(o);
  if (lines.empty())
    throw Error(ErrorKind::kUsage, "embed: has no text; give --text, or --jsonl and lines of it");
  Session session(o.model);
  std::vector<decode::EncoderInput> inputs;
  for (const Line& line : lines) {
    if (line.second && !o.states)
      throw Error(ErrorKind::kUsage, "embed: a pair has no vector of its own; give --states");
    inputs.push_back(encoded(session, line));
  }
  run_to_end(session, [&](std::shared_ptr<engine::Request> request) {
    return o.states ? print_states(session.engine(), std::move(request), std::move(inputs))
                    : print_vectors(session.engine(), std::move(request), std::move(inputs));
  });
}

}  // namespace

void add_embed(CLI::App& app) {
  auto o = std::make_shared<EmbedCommand>();
  CLI::App* command = app.add_subcommand(
      "embed",
      "texts as vectors of length 1, a JSON array a line: by an encoder or a causal model");
  o->model.add_to(*command);
  command->add_option("-p,--text", o->texts, "a text; may be repeated");
  command->add_flag("--jsonl", o->jsonl,
                    "standard input: a JSON string a line; with --states also a pair of strings");
  command->add_flag(
      "--states", o->states,
      "of an encoder, instead: {\"tokens\", \"states\"}, the final state of each token");
  command->callback([o] { embed(*o); });
}

}  // namespace tutti::cli
