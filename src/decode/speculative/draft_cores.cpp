#include "decode/speculative/draft_cores.h"

#include <utility>

namespace tutti::decode::speculative {

DraftCores::DraftCores(std::shared_ptr<engine::CoreSplit> split, int target, int draft)
    : split_(std::move(split)),
      target_(target),
      draft_(draft),
      count_(int(split_->cores(draft).size())) {
  split_->move(draft_, target_, count_);
}

DraftCores::Use::Use(std::shared_ptr<DraftCores> cores) : cores_(std::move(cores)) {
  const std::scoped_lock lock(cores_->mutex_);
  if (cores_->users_++ == 0) cores_->split_->move(cores_->target_, cores_->draft_, cores_->count_);
}

DraftCores::Use::~Use() {
  const std::scoped_lock lock(cores_->mutex_);
  if (--cores_->users_ == 0) cores_->split_->move(cores_->draft_, cores_->target_, cores_->count_);
}

}  // namespace tutti::decode::speculative
