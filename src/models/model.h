// A model ready to run on this machine: configuration, packed weights, and the forward over planned
// rows.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>

#include "base/pool.h"
#include "models/pack_weights.h"

namespace tutti::models {

class Model {
 public:
  // Packs the checkpoint's weights for the kernels, on the pool's workers, unless `cache` has them.
  // The checkpoint is kept: embedding rows are read from it.
  Model(std::shared_ptr<const Checkpoint> checkpoint, tensor::Arithmetic arithmetic,
        ComputePool& pool, const LoadProgress& progress = {}, const PackCache* cache = nullptr);

  const Config& config() const { return checkpoint_->config(); }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  tensor::Arithmetic arithmetic() const { return arithmetic_; }
  // Bumped whenever the weights change: cached keys and values of another version must not be
  // reused.
  uint64_t version() const { return version_; }
  // A hash of everything that decides the bits of a forward: configuration, arithmetic and weights.
  // Keys and values saved by a model of another fingerprint must not be used. Computed when first
  // asked for; any thread may ask.
  uint64_t fingerprint() const;
  size_t packed_bytes() const { return packed_.bytes; }
  // Where the packed weights came from.
  PackedWeights::From weights_from() const { return packed_.from; }
  // Bytes of packed weights read by a forward of one row: the bandwidth roof of plain decoding.
  size_t bytes_per_forward() const { return packed_.bytes; }
  // Multiply-adds of one row through every matrix (used experts only).
  size_t multiply_adds_per_row() const;

  tensor::KvLayout kv_layout(tensor::KvType type) const;

  // Runs `batch`; `consume` receives the logits of each head row. `space` is reused between calls.
  void forward(ComputePool& pool, const Batch& batch, const KvMemory& kv, RowWorkspace& space,
               const LogitsConsumer& consume) const;

 private:
  std::shared_ptr<const Checkpoint> checkpoint_;
  tensor::Arithmetic arithmetic_;
  PackedWeights packed_;
  std::unique_ptr<const RelativeKeys> relative_;  // of networks with relative positions
  uint64_t version_ = 1;
  mutable std::once_flag fingerprint_once_;
  mutable uint64_t fingerprint_ = 0;
};

}  // namespace tutti::models
