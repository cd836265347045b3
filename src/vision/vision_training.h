// Training of a small Dimple (sheet 22) from a recipe: phases that read and predict as they are
// told, on questions about rendered shapes. What runs it uses ATen and lies in aten/; this header
// names no tensor.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "vision/vision_config.h"

namespace tutti::vision {

// One phase: AR alignment and instruction are causal, diffusion sees all and fills in masked
// answers.
struct TrainingPhase {
  std::string name;
  std::string from;  // the phase whose weights and place in the data it continues, kUntrained: as
                     // at the beginning; empty: the phase before it
  bool causal = false;
  bool answer_padding = true;        // of masked answers
  std::vector<std::string> trained;  // of tower, projector, text (the language model and its head)
  int64_t steps = 0;
  double learning_rate = 0, warmup = 0.03,
         clip = 1;  // AdamW without weight decay; warm-up is a share of the steps
};

inline constexpr const char* kUntrained = "untrained";

struct VisionRecipe {
  std::string name;
  uint64_t seed = 1;
  int layers = 0, hidden = 0, heads = 0, kv_heads = 0, intermediate = 0,
      context = 0;            // of the language model
  std::vector<int> sections;  // frequencies that turn with t, h, w; together half of a head
  double rope_base = 0;       // small where all positions are: h and w have the slow frequencies
  VisionConfig vision;        // sizes alone
  std::string characters;     // a token each
  std::vector<std::string> words;  // likewise
  int sequences = 0;               // of a step
  int questions = 1;               // asked of one picture, each in a sequence of its own
  bool bf16 = false;
  std::vector<TrainingPhase> phases;
};

// Strict, as recipes of train/recipe.h. Throws Error(kBadFile).
VisionRecipe parse_vision_recipe(std::string_view text, const std::string& place);

struct VisionStep {
  std::string phase;
  int64_t step = 0, steps = 0;  // of the phase
  double loss = 0;              // mean cross entropy of the predicted tokens, nats
  double gradient_norm = 0, seconds = 0;
};

struct VisionTrainingRequest {
  std::filesystem::path recipe, folder;  // a model folder per phase: folder/PHASE
  int threads = 1;
  const std::atomic<bool>* stop = nullptr;  // set: end the phase here, write its folder, and return
  std::function<void(const VisionStep&)> on_step;
};

// As train::TrainFunction. Throws Error.
using TrainVisionFunction = void (*)(const VisionTrainingRequest& request, int64_t& parameters);
inline constexpr const char* kTrainVisionFunction = "tutti_train_vision";

}  // namespace tutti::vision
