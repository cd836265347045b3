// For tests: a tiny draft model that serves on a thread of its own.
#pragma once

#include <memory>
#include <optional>

#include "decode/speculative/draft_model.h"
#include "decode/speculative/draft_thread.h"
#include "decode/tiny_text.h"

namespace tutti::decode::speculative {

class ServedDraft {
 public:
  // The tiny model of TinyWorld with weights of `type`: F32 is the target itself, coarser types are
  // like it; with another architecture its weights have nothing to do with it.
  explicit ServedDraft(tensor::Type type, const std::string& architecture = "qwen3",
                       int pages = 1024)
      : ServedDraft(engine::tiny_model(type, tensor::Arithmetic::kExactQ8, 1, 0, architecture),
                    pages) {}
  explicit ServedDraft(engine::TinyModel tiny, int pages = 1024,
                       const std::shared_ptr<engine::CoreSplit>& split = nullptr)
      : tiny_(std::move(tiny)),
        tokenizer_(tiny_tokenizer()),
        engine_(std::make_shared<engine::Engine>(tiny_.model, tiny_.pool, options(pages))),
        model_(std::make_shared<const DraftModel>(
            engine_, tokenizer_, tokenizer_,
            split ? std::make_shared<DraftCores>(split, 0, 1) : nullptr)) {
    if (split) engine_->use_cores(split, 1);
    thread_.emplace(engine_);
  }
  // Member 1 of `split`, whose cores member 0 has while nothing is drafted.
  ServedDraft(tensor::Type type, const std::shared_ptr<engine::CoreSplit>& split)
      : ServedDraft(engine::tiny_model(type, tensor::Arithmetic::kExactQ8, 1), 1024, split) {}
  // Behind what requests that have ended left to be released.
  void end() { thread_.reset(); }
  // From its next forward on its engine fails, as it is given a core that no machine has. On its
  // thread.
  void break_engine() {
    engine_->use_cores(
        std::make_shared<engine::CoreSplit>(std::vector<std::vector<int>>{{1 << 20}}), 0);
  }

  const std::shared_ptr<const DraftModel>& model() const { return model_; }
  engine::Engine& engine() { return *engine_; }
  const std::shared_ptr<engine::Engine>& shared_engine() { return engine_; }

 private:
  static engine::EngineOptions options(int pages) {
    engine::EngineOptions options;
    options.pages = pages;
    options.prefix_cache = false;
    return options;
  }

  engine::TinyModel tiny_;
  text::Tokenizer tokenizer_;
  std::shared_ptr<engine::Engine> engine_;
  std::shared_ptr<const DraftModel> model_;
  std::optional<DraftThread> thread_;
};

}  // namespace tutti::decode::speculative
