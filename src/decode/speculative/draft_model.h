// A second, smaller model on an engine of its own, which drafts for a first.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "decode/speculative/draft_cores.h"
#include "engine/engine.h"
#include "text/tokenizer.h"

namespace tutti::decode::speculative {

// What the requests that draft with a model know together of its use beside the target. On the
// target's thread.
struct DraftTimes {
  double plain = 0, drafting = 0;  // seconds of a request's step; 0: not measured
  double tokens = 0;               // that a step with drafts writes
  int plains = 0, drafted = 0;  // steps that `plain` and the others are means of, at most so many
  int unmeasured = 0;           // steps with drafts since the last without
  int idle = 0;                 // steps without drafts since the last with some
  int patience = 0;             // of them, until drafts are tried again; 0: not chosen yet
};

// What a request ends with while whose draft the draft model's engine failed: Error(kSystem).
class DraftFailure : public Error {
 public:
  explicit DraftFailure(const std::string& what)
      : Error(ErrorKind::kSystem, "draft model: " + what +
                                      "; ask again: nothing is drafted from now on, until the "
                                      "program starts anew") {}
};

class DraftModel {
 public:
  // `engine` is a guest of the target's (Engine::host), or runs in serve() on a thread of its own
  // as long as anybody drafts with it. Throws Error(kUnsupported) when the models do not write the
  // same tokens: the sizes of the vocabularies may differ by padding, their common ids may not, and
  // the same ids end a text. `cores`: null unless the engine has some of its own that it lends.
  DraftModel(std::shared_ptr<engine::Engine> engine, const text::Tokenizer& tokenizer,
             const text::Tokenizer& target, std::shared_ptr<DraftCores> cores = nullptr);

  engine::Engine& engine() const { return *engine_; }
  // Ids below are the same in both.
  int vocabulary() const { return vocabulary_; }
  // Of a head that has some tokens only (Config::head_tokens): these, a bit each as of
  // Sampling::allowed. Null: it has all.
  const std::shared_ptr<const std::vector<uint64_t>>& head_tokens() const { return head_tokens_; }
  const std::shared_ptr<DraftCores>& cores() const { return cores_; }
  DraftTimes& times() const { return *times_; }
  // Its engine has failed once: whoever drafts by it writes plainly, as it may fail again. Any
  // thread.
  bool failed() const { return failed_; }
  void fail() const { failed_ = true; }

 private:
  std::shared_ptr<engine::Engine> engine_;  // programs that draft need it to their own end
  int vocabulary_;
  std::shared_ptr<const std::vector<uint64_t>> head_tokens_;
  std::shared_ptr<DraftCores> cores_;
  std::unique_ptr<DraftTimes> times_ = std::make_unique<DraftTimes>();
  mutable std::atomic<bool> failed_{false};
};

}  // namespace tutti::decode::speculative
