// Questions about rendered shapes (vision/shapes.h) under methods of decoding, and blind: with the
// picture taken away.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "decode/generation.h"
#include "vision/image_prompt.h"
#include "vision/shapes.h"

namespace tutti::eval {

enum class Picture : uint8_t {
  kShown,
  kZeroed,    // black, of the same size
  kShuffled,  // that of the next question
};

struct ShapesOptions {
  int problems = 200;
  uint64_t first = 0, seed = 1;
  vision::ShapeSplit split = vision::ShapeSplit::kTest;
  Picture picture = Picture::kShown;
  int batch = 1;                        // answered at the same time
  std::vector<vision::Question> kinds;  // what is asked; empty: all kinds
};

struct ShapesResult {
  struct Kind {
    int asked = 0, right = 0;
    uint64_t forwards = 0, tokens = 0;  // each answer's own; tokens up to and with the end token
  };
  std::array<Kind, vision::kQuestions> kinds;
  int problems = 0, right = 0;
  int parsed = 0;  // answers to "describe" that are JSON
  uint64_t forwards = 0, tokens = 0;
  double seconds = 0;
  struct Answer {
    std::string question, expected, text;
  };
  std::vector<Answer> answers;
};

// How a model is asked about one image.
struct ShapesModel {
  engine::Engine& engine;
  const text::Tokenizer& tokenizer;
  std::shared_ptr<vision::ImageNetwork> network;
  vision::VisionConfig config;
};

// Throws what generate() throws. `progress` is called with the number of answers so far.
ShapesResult run_shapes(const ShapesModel& model, const decode::GenerationOptions& how,
                        const ShapesOptions& options, const std::function<void(int)>& progress);

}  // namespace tutti::eval
