// What training leaves for a model to guess its next tokens with, as a folder: config.json, and
// maps.safetensors with transfer.1.weight, transfer.2.weight, … Sources: Wu et al. 2024 (Hidden
// Transfer, arXiv 2404.12022; sheet 05); Cai et al. 2024 (Medusa, arXiv 2401.10774) for the blocks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "models/checkpoint.h"

namespace tutti::train {

struct TransferMaps {
  enum class Kind : uint8_t {
    kLinear,  // the row of offset i enters layer enter[i] with W h + b, h being the state there
    kMedusa,  // the head reads u + silu(W u + b), u the last state over its root mean square
  };
  // W is [hidden, hidden], row-major; b [hidden] or empty.
  struct Map {
    std::vector<float> weight, bias;
  };

  Kind kind = Kind::kLinear;
  int hidden = 0, layers = 0, vocab = 0;  // of the model that they were trained for
  uint64_t model = 0;                     // its fingerprint
  std::vector<int> enter;                 // of each offset; of kMedusa all `layers`
  bool refined = true;       // kLinear: rows run through the layers that follow; false: straight to
                             // the head
  bool see_previous = true;  // kLinear: rows see those of smaller offsets beside them
  std::vector<Map> maps;     // one per offset, or one for all
  // [offset][check::kGuessKinds + 1]: how often a guess of each kind was right on held-out text
  // where the offsets before were, and any first choice; or empty.
  std::vector<std::vector<double>> acceptance;

  int offsets() const { return int(enter.size()); }
  const Map& map(int offset) const { return maps[maps.size() == 1 ? 0 : size_t(offset)]; }

  // Throws Error(kNotFound | kBadFile), naming file and field.
  static TransferMaps read(const std::filesystem::path& folder);
  // Numbers in fp16, or in fp32 as they are. Throws Error(kSystem), and Error(kUsage) when a number
  // is beyond fp16.
  void write(const std::filesystem::path& folder, bool half) const;
  // Throws Error(kUsage) saying in what `checkpoint` is not the model that they were trained for.
  void check(const models::Checkpoint& checkpoint, const std::string& place) const;
};

// A number that quantising a model leaves as it is: the hash of its last norm's weights.
uint64_t fingerprint(const models::Checkpoint& checkpoint);

}  // namespace tutti::train
