// What config.json says about a network, in GGUF's keys.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"
#include "models/checkpoint.h"

namespace tutti::convert {

struct FolderMetadata {
  std::string architecture;  // GGUF's: Mistral and Mixtral are "llama"
  formats::GgufMetadata
      metadata;  // general.architecture, general.name and the architecture's own keys
  std::vector<float> rope_factors;  // tensor rope_freqs.weight [pairs]; empty: none
};

// `checkpoint` comes from a folder. The keys are read back, and where the network that they
// describe is not the folder's, Error(kUnsupported) names the difference.
FolderMetadata folder_metadata(const models::Checkpoint& checkpoint);

}  // namespace tutti::convert
