// The configuration that a GGUF file's metadata states.
#pragma once

#include "formats/gguf.h"
#include "models/config.h"
#include "models/rope.h"

namespace tutti::models {

// Throws Error(kBadFile | kUnsupported) naming the file and the key, the architecture or the
// scaling.
Config gguf_config(const formats::Gguf& gguf);

// The rotary embedding of full layers as the file states it, before it becomes frequencies (factors
// per frequency are a tensor of their own). `config` is gguf_config's. Throws Error(kBadFile |
// kUnsupported).
RopeParameters gguf_rope(const formats::Gguf& gguf, const Config& config);

}  // namespace tutti::models
