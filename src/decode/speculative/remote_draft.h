// A draft model's side of one request: a Context on its engine that follows the request's tokens.
#pragma once

#include <memory>
#include <optional>

#include "decode/speculative/draft_model.h"
#include "decode/speculative/draft_run.h"

namespace tutti::decode::speculative {

class RemoteDraft {
 public:
  explicit RemoteDraft(std::shared_ptr<const DraftModel> model);
  ~RemoteDraft();
  RemoteDraft(const RemoteDraft&) = delete;
  RemoteDraft& operator=(const RemoteDraft&) = delete;

  const DraftModel& model() const { return *model_; }
  // Drafts after a text whose first `known` tokens stood when the last run was asked for (0: the
  // first run), and whose others are order.tokens. What an earlier run has fed of them is not fed
  // again. Runs on the draft model's engine, which has its own cores from now on until rest().
  // Throws DraftFailure when that engine fails, which the DraftModel remembers.
  Task<DraftResult> run(size_t known, DraftOrder order);
  // Nothing is drafted for a while: cores that nobody else drafts with go to the target.
  void rest() { cores_.reset(); }

 private:
  struct Remote;
  std::shared_ptr<const DraftModel> model_;
  std::shared_ptr<Remote> remote_;  // lives and dies on its engine's thread
  std::optional<DraftCores::Use> cores_;
};

}  // namespace tutti::decode::speculative
