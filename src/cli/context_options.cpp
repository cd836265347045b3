#include "cli/context_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "cli/text_input.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

// Stands where the passages go while the chat template is at work: two private-use characters that
// no text has.
const std::string kPlace = "\uE0F0\uE0F1";

// "500M", "2G", "0".
uint64_t parse_bytes(const std::string& text, const char* option) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, number);
  const std::string_view unit(read.ptr, size_t(end - read.ptr));
  const int shift = unit == "K"    ? 10
                    : unit == "M"  ? 20
                    : unit == "G"  ? 30
                    : unit == "T"  ? 40
                    : unit.empty() ? 0
                                   : -1;
  if (read.ec != std::errc() || shift < 0 || number > (uint64_t(1) << 50 >> shift)) {
    throw Error(ErrorKind::kUsage, std::string(option) + " " + text +
                                       ": wants bytes, for example 500M or 4G; 0: no limit");
  }
  return number << shift;
}

SplitPrompt split(const Session& session, const std::string& text, bool raw) {
  const size_t place = text.find(kPlace);
  if (place == std::string::npos || text.find(kPlace, place + 1) != std::string::npos) {
    throw Error(ErrorKind::kUnsupported,
                "contexts: the chat template does not repeat a message as it is; use --raw and "
                "write the prompt yourself");
  }
  const auto encode = [&](const std::string& part, bool first) {
    return raw && first ? session.encode_raw(part) : session.tokenizer().encode(part);
  };
  SplitPrompt prompt;
  prompt.tokens = encode(text.substr(0, place), true);
  prompt.at = int(prompt.tokens.size());
  const auto rest = encode(text.substr(place + kPlace.size()), false);
  if (rest.empty()) throw Error(ErrorKind::kUsage, "contexts: give a prompt behind them");
  prompt.tokens.insert(prompt.tokens.end(), rest.begin(), rest.end());
  return prompt;
}

void refuse_place(const std::string& text) {
  if (text.find(kPlace) != std::string::npos) {
    throw Error(
        ErrorKind::kUsage,
        "prompt: has the private-use characters U+E0F0 U+E0F1, which mark where contexts go");
  }
}

}  // namespace

std::string default_context_folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache)
    return std::string(cache) + "/tutti/contexts";
  const char* home = std::getenv("HOME");
  return std::string(home && *home ? home : ".") + "/.cache/tutti/contexts";
}

void ContextFolderOptions::add_to(CLI::App& app) {
  app.add_option("--context-folder", folder,
                 "where contexts are kept (default: ~/.cache/tutti/contexts)")
      ->envname("TUTTI_CONTEXTS");
  app.add_option("--context-budget", budget,
                 "bytes kept there at most, the least recently used go; 0: no limit")
      ->capture_default_str();
}

decode::ContextFolder ContextFolderOptions::open() const {
  return decode::ContextFolder(folder.empty() ? default_context_folder() : folder,
                               parse_bytes(budget, "--context-budget"));
}

void ContextOptions::add_to(CLI::App& app) {
  app.add_option("--context", contexts,
                 "a file, or the id or name of a stored context, to read beside the prompt; may be "
                 "repeated. Contexts are "
                 "read side by side, each once (approximate; see --context-mode)")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--context-prefix", prefix, "text before the contexts that all of them see")
      ->default_str("two newlines");
  app.add_option("--context-mode", mode,
                 "ape: adaptive parallel encoding; pcw: parallel context windows; sequential: one "
                 "after the other (exact)")
      ->check(CLI::IsMember({"ape", "pcw", "sequential"}))
      ->capture_default_str();
  app.add_option("--context-temperature", temperature,
                 "ape: of attention over contexts; 'tutti contexts tune' finds it")
      ->capture_default_str();
  app.add_option("--context-scale", scale, "ape: of the contexts' log-sum-exp")
      ->capture_default_str();
  app.add_flag("--context-report", report,
               "say how much of the answer's attention went to each context (computes prompt and "
               "answer once more)");
  app.add_flag("!--no-context-store", keep, "compute contexts anew and keep none");
  folder.add_to(app);
}

void ContextOptions::resolve(decode::Passages& defaults) const {
  defaults.mode = decode::parse_passage_mode(mode);
  defaults.temperature = temperature;
  defaults.scale = scale;
}

std::vector<ContextText> ContextOptions::texts() const {
  std::vector<ContextText> texts;
  for (const std::string& name : contexts) {
    std::error_code error;
    ContextText text;
    if (std::filesystem::exists(name, error)) {
      text.text = read_input(name);
      if (text.text.empty())
        throw Error(ErrorKind::kUsage, "context " + name + ": the file is empty");
    } else {
      text.stored = name;
    }
    texts.push_back(std::move(text));
  }
  return texts;
}

std::shared_ptr<decode::ContextStore> ContextOptions::open_store(Session& session) const {
  decode::ContextStore::Options options;
  if (keep) options.folder = folder.open();
  options.model = session.options().model;
  if (!session.options().quiet) {
    options.note = [](const std::string& text) {
      std::fprintf(stderr, "note: %s\n", text.c_str());
    };
  }
  return std::make_shared<decode::ContextStore>(session.engine(), std::move(options));
}

SplitPrompt encode_around(const Session& session, Json messages, const std::string& prefix) {
  const auto user = [&](const Json& m) {
    return m.is_object() && m.value("role", Json()) == "user";
  };
  auto last = std::find_if(messages.rbegin(), messages.rend(), user);
  if (last == messages.rend() || !last->contains("content") || !(*last)["content"].is_string()) {
    throw Error(ErrorKind::kUsage, "contexts: want a user message whose content is a text");
  }
  auto& content = (*last)["content"].get_ref<std::string&>();
  for (const Json& m : messages)
    refuse_place(m.dump(-1, ' ', false, Json::error_handler_t::replace));
  refuse_place(prefix);
  content = prefix + kPlace + content;
  return split(session, session.render_chat(messages), false);
}

SplitPrompt encode_raw_around(const Session& session, const std::string& text,
                              const std::string& prefix) {
  refuse_place(text);
  refuse_place(prefix);
  return split(session, prefix + kPlace + text, true);
}

std::vector<int32_t> encode_passage(const text::Tokenizer& tokenizer, std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' '))
    text.pop_back();
  text += "\n\n";
  text::EncodeOptions encode;
  encode.parse_special = false;  // a text that is read is no conversation
  return tokenizer.encode(text, encode);
}

std::vector<std::vector<int32_t>> encode_passages(const Session& session,
                                                  const decode::ContextFolder& folder,
                                                  const std::vector<ContextText>& texts,
                                                  std::span<const int32_t> prefix) {
  std::vector<std::vector<int32_t>> passages;
  for (const ContextText& text : texts) {
    if (!text.is_stored()) {
      passages.push_back(encode_passage(session.tokenizer(), text.text));
      continue;
    }
    const auto entry = folder.get(text.stored);
    for (const int32_t token : entry.tokens) {
      if (token >= 0 && token < session.model().config().vocab) continue;
      throw Error(ErrorKind::kUsage, "context " + text.stored + ": was stored for another model (" +
                                         entry.model + "); name the file instead");
    }
    if (!std::ranges::equal(entry.prefix, prefix) && !session.options().quiet) {
      std::fprintf(stderr,
                   "note: context %s was read behind another prefix; it is computed again\n",
                   text.stored.c_str());
    }
    passages.push_back(entry.tokens);
  }
  return passages;
}

}  // namespace tutti::cli
