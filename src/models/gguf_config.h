// The configuration that a GGUF file's metadata states.
#pragma once

#include "formats/gguf.h"
#include "models/config.h"

namespace tutti::models {

// Throws Error(kBadFile | kUnsupported) naming the file and the key, the architecture or the
// scaling.
Config gguf_config(const formats::Gguf& gguf);

}  // namespace tutti::models
