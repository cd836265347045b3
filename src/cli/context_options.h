// Texts that a request reads as passages (decode/ape): their options, and the way from names and
// texts to tokens.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/session.h"
#include "decode/ape/context_store.h"
#include "decode/ape/passages.h"

namespace tutti::cli {

// A passage as a user gives it: a text, or the id or name of a stored one.
struct ContextText {
  std::string text;
  std::string stored;
  bool is_stored() const { return !stored.empty(); }
};

// Where passages' keys and values are kept between runs.
struct ContextFolderOptions {
  std::string folder;  // empty: default_context_folder()
  std::string budget = "4G";

  void add_to(CLI::App& app);
  decode::ContextFolder open() const;  // throws Error(kUsage)
};
std::string default_context_folder();

struct ContextOptions {
  std::vector<std::string> contexts;  // files, or ids and names of stored ones
  std::string prefix = "\n\n";        // of the user's message, before the passages
  std::string mode = "ape";
  float temperature = 0.9f, scale = 0.9f;
  bool keep = true;
  bool report = false;
  ContextFolderOptions folder;

  void add_to(CLI::App& app);
  void resolve(decode::Passages& defaults) const;  // mode, temperature, scale
  std::vector<ContextText> texts() const;          // reads the files
  std::shared_ptr<decode::ContextStore> open_store(Session& session) const;
};

// A prompt with a place for passages.
struct SplitPrompt {
  std::vector<int32_t> tokens;
  int at = 0;  // passages stand before this token
};
// The conversation through the chat template, or `raw` text; the place is behind `prefix`, which
// goes before the text, or before that of the last user message. Throws Error(kUsage) when there is
// none, or no text behind the passages.
SplitPrompt encode_around(const Session& session, nlohmann::ordered_json messages,
                          const std::string& prefix);
SplitPrompt encode_raw_around(const Session& session, const std::string& text,
                              const std::string& prefix);

// The tokens of one passage: of its text with an empty line behind it, control tokens taken as
// text.
std::vector<int32_t> encode_passage(const text::Tokenizer& tokenizer, std::string text);
// Of texts and stored ones. A stored one that was read behind other tokens than `prefix` is
// computed again; `note` says so.
std::vector<std::vector<int32_t>> encode_passages(const Session& session,
                                                  const decode::ContextFolder& folder,
                                                  const std::vector<ContextText>& texts,
                                                  std::span<const int32_t> prefix);

}  // namespace tutti::cli
