// A second model that drafts for the first: its options, and its engine, a guest of the first one's
// or, with cores of its own, on a thread of its own.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/session.h"
#include "decode/speculative/draft_model.h"
#include "decode/speculative/draft_thread.h"

namespace tutti::cli {

struct DraftModelOptions {
  std::string model;  // empty: none
  int cores = 0;      // of its own; 0: it shares the model's, turn by turn
  std::vector<std::pair<std::string, std::string>>
      settings;  // method options that were given by their own names

  void add_to(CLI::App& app);
  // All but the model; `variables`: the environment may give them, too.
  void add_ways_to(CLI::App& app, bool variables);
  static constexpr const char* kModelFlags = "--draft-model,--model-draft,--speculative-model";
  // A draft model drafts unless another method was named; --draft-max and the like become options
  // of the method. Throws Error(kUsage) for settings that the method does not have, and as
  // check_draft_settings does.
  void resolve(decode::GenerationOptions& generation) const;
};

// Values of --draft-max, --draft-min and --draft-p-min, by the names of the methods' options;
// others are left alone. Throws Error(kUsage) naming flag and range, before any model is loaded.
void check_draft_settings(const std::map<std::string, std::string>& method_options);

// For people: which of these settings the method that a model writes with by itself (`method`) does
// not have, and whose they are; empty: it has all. Lines end with a line end.
std::string draft_settings_without_use(const std::map<std::string, std::string>& method_options,
                                       const std::string& model, std::string_view method);

class DraftSession {
 public:
  // Opens the draft model beside `target`, with the same threads, arithmetic and KV type. Throws
  // Error, also when the two have different vocabularies.
  DraftSession(const DraftModelOptions& options, Session& target,
               engine::EngineOptions engine_options = {});
  DraftSession(const DraftSession&) = delete;
  DraftSession& operator=(const DraftSession&) = delete;

  std::shared_ptr<const decode::speculative::DraftModel> model() const { return model_; }

 private:
  std::unique_ptr<Session> session_;
  std::shared_ptr<const decode::speculative::DraftModel> model_;
  std::optional<decode::speculative::DraftThread> thread_;  // with cores of its own
};

}  // namespace tutti::cli
