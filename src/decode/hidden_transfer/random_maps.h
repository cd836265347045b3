// For tests: maps for the tiny model that were never trained.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/draws.h"
#include "models/checkpoint.h"
#include "train/transfer_maps.h"

namespace tutti::decode::speculative {

// Numbers in (-deviation, deviation), `identity` added on the diagonal.
inline train::TransferMaps random_maps(const models::Checkpoint& checkpoint, Draws& draws,
                                       std::vector<int> enter, float deviation, float identity) {
  const models::Config& c = checkpoint.config();
  train::TransferMaps maps;
  maps.hidden = c.hidden;
  maps.layers = c.layers;
  maps.vocab = c.vocab;
  maps.model = train::fingerprint(checkpoint);
  maps.enter = std::move(enter);
  const size_t n = size_t(c.hidden);
  for (int i = 0; i < maps.offsets(); ++i) {
    train::TransferMaps::Map map;
    for (size_t j = 0; j < n * n; ++j) {
      map.weight.push_back(draws.uniform(-deviation, deviation) +
                           (j % (n + 1) == 0 ? identity : 0.0f));
    }
    for (size_t j = 0; j < n; ++j) map.bias.push_back(draws.uniform(-deviation, deviation));
    maps.maps.push_back(std::move(map));
  }
  return maps;
}

}  // namespace tutti::decode::speculative
