// What every command that runs a model needs: the options that name and load it, and the loaded
// parts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "decode/generation.h"
#include "engine/engine.h"
#include "models/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace CLI {
class App;
}

namespace tutti::cli {

// The classes of arithmetic, as --arithmetic takes them.
std::vector<std::string> arithmetic_names();

struct ModelOptions {
  std::string model;
  int threads = 0;  // 0: all cores
  std::string kv = "f16";
  std::string arithmetic = "exact-q8";
  int kv_pages = 0;
  std::string pack_cache;  // a folder, "off", or empty for the default
  bool quiet = false;

  static constexpr const char* kModelHelp =
      "a .gguf file, a Hugging Face folder, or a short name (smollm2, gemma3-270m, minilm)";
  void add_to(CLI::App& app);
  void add_ways_to(CLI::App& app);  // all but the model
};

// A text::Tokenizer of a model on disk; vocabulary-only files and folders serve as well.
text::Tokenizer load_tokenizer(const std::string& model);

class Session {
 public:
  // What a command works on: text, or ids alone (a model file without a tokenizer serves as well).
  enum class Input { kText, kIds };
  // Opens, packs (with a progress line on stderr when it takes long and stderr is a terminal) and
  // starts an engine. `pool`: it computes with these workers; null: it has its own. Throws Error.
  // A draft model that has no embeddings takes those of `target`, and its tokens, too. With `lease`
  // the engine takes turns with others on the same cores, each on a thread of its own.
  explicit Session(const ModelOptions& options, engine::EngineOptions engine_options = {},
                   Input input = Input::kText, std::shared_ptr<ComputePool> pool = {},
                   const models::Checkpoint* target = nullptr,
                   std::shared_ptr<engine::CoreLease> lease = {});

  const models::Model& model() const { return *model_; }
  std::shared_ptr<const models::Model> shared_model() const { return model_; }
  std::shared_ptr<ComputePool> pool() const { return pool_; }
  engine::Engine& engine() { return *engine_; }
  const std::shared_ptr<engine::Engine>& shared_engine() const { return engine_; }
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }  // of Input::kText
  bool has_tokenizer() const { return tokenizer_ != nullptr; }
  const ModelOptions& options() const { return options_; }
  double load_seconds() const { return load_seconds_; }

  bool has_chat_template() const { return chat_.has_value(); }
  // The prompt ids of a conversation through the model's own template, generation prompt added.
  // Throws Error(kUnsupported) when the model has none.
  std::string render_chat(const nlohmann::ordered_json& messages) const;
  std::vector<int32_t> encode_chat(const nlohmann::ordered_json& messages) const;
  // Plain text, with BOS when the model wants one.
  std::vector<int32_t> encode_raw(const std::string& text) const;

 private:
  ModelOptions options_;
  std::shared_ptr<ComputePool> pool_;
  std::shared_ptr<const models::Model> model_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::optional<text::ChatTemplate> chat_;
  std::shared_ptr<engine::Engine> engine_;
  double load_seconds_ = 0;
};

// The chat template of a tokenizer, with its special tokens as variables; nullopt when it has none.
std::optional<text::ChatTemplate> chat_template_of(const text::Tokenizer& tokenizer);

}  // namespace tutti::cli
