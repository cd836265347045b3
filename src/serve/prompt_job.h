// One prompt on the engine's thread: read, scored, gone on from.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "decode/generation.h"
#include "serve/score.h"
#include "serve/served_model.h"

namespace tutti::serve {

// What a prompt becomes before the model reads it.
struct ReadPrompt {
  std::vector<int32_t> tokens;
  bool in_thought = false;  // of a chat: it ends inside of a thought
};

// What an engine's thread works on. It may be the last to let go of it, so nothing of the net
// thread's is in here.
struct PromptJob {
  engine::Engine* engine;
  Score* score;
  const text::Tokenizer* tokenizer;
  // Makes the prompt, beside the engine: of a long text, which takes longer than a tick. Null: it
  // is there. May throw ApiError.
  std::function<ReadPrompt()> read;
  bool in_thought = false;      // written before the first piece, read after
  std::vector<int32_t> prompt;  // with images: each has one place, and as many as it needs later
  std::vector<std::vector<std::byte>> images;  // files
  std::shared_ptr<const ImageReading> reading;
  decode::GenerationOptions options;
  bool scores_prompt = false;
  std::vector<engine::Picked> scores;  // written before the run ends, read after, as `prompt` is

  void take(ReadPrompt read_prompt) {
    prompt = std::move(read_prompt.tokens);
    in_thought = read_prompt.in_thought;
  }
};

// Throws ApiError(400) for images that cannot be read or do not fit, what `read` and what
// decode::generate throw.
Task<std::vector<decode::Completion>> run_prompt(std::shared_ptr<PromptJob> job,
                                                 std::shared_ptr<engine::Request> request,
                                                 decode::PieceSink sink);

}  // namespace tutti::serve
