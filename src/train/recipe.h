// A training run as a file: which network, on which data, with which loss, and how its weights
// move. Strict: an unknown key is refused with the nearest known one, every value has a range.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "train/loss_options.h"
#include "train/schedule.h"

namespace tutti::train {

// A new network of these sizes, or the weights of a folder. The family says how the network sees
// and predicts, and in whose layout it is saved (model_shape.h).
struct ModelRecipe {
  std::string from;  // a Hugging Face folder or a GGUF file; empty: new weights
  std::string
      family;  // llama, qwen2, qwen3, llada, dream, sdar; empty with `from`: the folder's own
  int layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0;
  int context = 0;  // 0 with `from`: the folder's own
  double rope_theta = 10000, norm_epsilon = 1e-5;
  bool tied_head = false;
  // A draft model (llama only): the model whose embeddings it takes through a map, and a JSON list
  // of the tokens that its head has.
  std::string draft_of;
  std::filesystem::path head_tokens;
  int block = 0;            // sdar: the attention block
  double deviation = 0.02;  // of new matrices; those that add to the residual stream have deviation
                            // / sqrt(2 layers)
};

struct TokenizerRecipe {
  std::string characters;  // one token each; exactly one of the two is set
  std::string from;  // a folder or a GGUF file with a tokenizer, ModelRecipe::from unless said
  std::string mask;  // the token that stands for a masked one; empty: the tokenizer's own
};

// Exactly one of the sources is set.
struct DataRecipe {
  std::string generator;        // a task of problems.h
  std::filesystem::path jsonl;  // lines of {"prompt", "answer"} or {"text"}
  std::filesystem::path text;   // one text, cut into windows of `length` tokens
  int length = 0;               // most tokens of a sequence
  bool pad =
      false;  // answers are followed by end tokens up to `length`, which are trained like others
};

struct OptimiserRecipe {
  std::string kind = "adamw";  // or sgd
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double momentum = 0;  // of sgd
  double clip = 0;      // > 0: largest norm of all gradients together
};

struct LoraRecipe {
  int rank = 0;  // 0: all weights are trained
  double alpha = 0;
  int first_layer = 0;               // layers before it stay as they are
  std::vector<std::string> targets;  // of q k v o gate up down
};

// Held-out problems, solved by the reference sampler; of losses that train guesses, texts.
struct EvaluationRecipe {
  int every = 0;                   // steps; 0: only after the last
  std::filesystem::path held_out;  // of texts, lines as DataRecipe::jsonl has them
  int problems = 0;                // or texts; 0: none
  int steps = 0;                   // forwards of one answer; 0: one per token
};

struct Recipe {
  std::string name;
  uint64_t seed = 0;
  ModelRecipe model;
  TokenizerRecipe tokenizer;
  DataRecipe data;
  LossOptions loss;
  OptimiserRecipe optimiser;
  Schedule schedule;
  LoraRecipe lora;
  EvaluationRecipe evaluation;
  int64_t steps = 0;
  int sequences = 0;           // of one forward; 0: as many as `tokens` holds
  int tokens = 0;              // of one forward, at most
  int accumulate = 1;          // forwards of one step
  double ema = 0;              // decay of the averaged weights; 0: none. They are what is saved
  std::string device = "cpu";  // or cuda, cuda:1, … (the second GPU)
  bool bf16 = false;           // products in bfloat16, weights and sums in fp32
  int64_t save_every = 0;      // steps; 0: only at the end
  std::string text;            // the file, for the checkpoint
};

// Whether it is "cpu", "cuda" or "cuda:" and a number.
bool names_device(std::string_view text);
// What is wrong with it as an option, or nothing.
std::string is_device_option(const std::string& text);

// Paths in the file are relative to `folder`. `place` stands for the file in errors. Throws
// Error(kBadFile).
Recipe parse_recipe(std::string_view text, const std::string& place,
                    const std::filesystem::path& folder);
Recipe read_recipe(const std::filesystem::path& path);

}  // namespace tutti::train
