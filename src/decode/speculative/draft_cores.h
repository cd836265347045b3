// The cores of a draft model's own: they compute for the target as long as nobody drafts.
#pragma once

#include <memory>
#include <mutex>

#include "engine/cores.h"

namespace tutti::decode::speculative {

class DraftCores {
 public:
  // Both are members of `split`; the target gets the draft model's cores at once.
  DraftCores(std::shared_ptr<engine::CoreSplit> split, int target, int draft);
  DraftCores(const DraftCores&) = delete;

  // While one lives, the draft model has its cores. It may end on any thread, and outlive nothing
  // but the DraftCores.
  class Use {
   public:
    explicit Use(std::shared_ptr<DraftCores> cores);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    std::shared_ptr<DraftCores> cores_;
  };

 private:
  std::shared_ptr<engine::CoreSplit> split_;
  int target_, draft_, count_;
  std::mutex mutex_;
  int users_ = 0;
};

}  // namespace tutti::decode::speculative
