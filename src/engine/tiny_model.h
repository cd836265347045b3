// For tests: a small random model of the real network, made in memory and loaded like any other.
#pragma once

#include <memory>
#include <string>

#include "models/crafted_checkpoint.h"
#include "models/crafted_xlnet.h"
#include "models/model.h"

namespace tutti::engine {

struct TinyModel {
  std::shared_ptr<ComputePool> pool;
  std::shared_ptr<const models::Model> model;
};

// Two layers, hidden 64, 4 heads of 16 over 2 KV heads, 96 tokens. `window` > 0: the first layer
// slides (gemma3).
// `architecture`: qwen3, a masked one, whose last token is the mask, or xlnet (hidden 48, 3 heads,
// 256 positions).
inline TinyModel tiny_model(tensor::Type type, tensor::Arithmetic arithmetic, int threads,
                            int window = 0, const std::string& architecture = "qwen3") {
  models::DraftShape shape;
  shape.head_dim = 16;
  shape.wide = 128;
  shape.vocab = 96;
  shape.context = 8192;
  shape.type = type;
  models::Draft draft = models::draft(window > 0                ? "gemma3"
                                      : architecture == "xlnet" ? "qwen3"
                                                                : architecture,
                                      shape);
  if (window > 0) {
    draft.keys["gemma3.attention.sliding_window"] = formats::GgufValue::u32(uint32_t(window));
    draft.keys["gemma3.attention.sliding_window_pattern"] = formats::GgufValue::u32(2);
  }
  models::XlnetShape two_streams;
  two_streams.vocab = shape.vocab;
  two_streams.context = 256;
  TinyModel tiny;
  tiny.pool = std::make_shared<ComputePool>(threads);
  tiny.model = std::make_shared<models::Model>(
      architecture == "xlnet" ? models::xlnet_checkpoint(two_streams)
                              : std::make_shared<const models::Checkpoint>(draft.load()),
      arithmetic, *tiny.pool);
  return tiny;
}

}  // namespace tutti::engine
