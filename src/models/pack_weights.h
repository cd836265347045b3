// From stored weights to packed ones, in memory or by way of a cache; either way once, and the
// stored ones do not stay in memory beside them.
#pragma once

#include <functional>

#include "base/pool.h"
#include "models/checkpoint.h"
#include "models/pack_cache.h"
#include "models/row_ops.h"

namespace tutti::models {

// Told how much of the weights is packed, 0..1, while a model loads.
using LoadProgress = std::function<void(double fraction)>;

struct PackedWeights {
  enum class From {
    kMemory,
    kNewFile,
    kCache
  };  // packed in memory; into a new file of the cache; found in it
  RowWeights weights;
  size_t bytes = 0;  // of all packed matrices
  From from = From::kMemory;
};

// Packs on the pool's workers. `cache` may be null. Throws Error(kBadFile | kLimit).
PackedWeights pack_weights(const Checkpoint& checkpoint, tensor::Arithmetic arithmetic,
                           ComputePool& pool, const LoadProgress& progress, const PackCache* cache);

}  // namespace tutti::models
