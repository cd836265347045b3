// One prompt on the engine's thread: read, scored, gone on from.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "decode/generation.h"
#include "serve/score.h"
#include "serve/served_model.h"

namespace tutti::serve {

// What an engine's thread works on. It may be the last to let go of it, so nothing of the net
// thread's is in here.
struct PromptJob {
  engine::Engine* engine;
  Score* score;
  const text::Tokenizer* tokenizer;
  std::vector<int32_t> prompt;  // with images: each has one place, and as many as it needs later
  std::vector<std::vector<std::byte>> images;  // files
  std::shared_ptr<const ImageReading> reading;
  decode::GenerationOptions options;
  bool scores_prompt = false;
  std::vector<engine::Picked> scores;  // written before the run ends, read after, as `prompt` is
};

// Throws ApiError(400) for images that cannot be read or do not fit, and what decode::generate
// throws.
Task<std::vector<decode::Completion>> run_prompt(std::shared_ptr<PromptJob> job,
                                                 std::shared_ptr<engine::Request> request,
                                                 decode::PieceSink sink);

}  // namespace tutti::serve
