// What a run is trained on, by number: example i is a function of (recipe, files, i), so the order
// of the data does not depend on threads, on when a run was stopped, or on what else ran.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "train/recipe.h"
#include "train/vocabulary.h"

namespace tutti::train {

struct Example {
  std::vector<int32_t> tokens;
  int prompt = 0;  // of these tokens, from the first: given, never masked, never predicted
};

class ExampleSource {
 public:
  virtual ~ExampleSource() = default;
  virtual Example at(uint64_t index) const = 0;
};

// Generated problems do not end; files are gone through again and again, each time in another
// order. Throws Error naming the file, the line and what to do: too long a sequence, a character
// without a token, an empty file.
std::unique_ptr<ExampleSource> make_examples(const DataRecipe& recipe, uint64_t seed,
                                             const Vocabulary& vocabulary);

// A prompt and its answer, the end token behind it, and, when `pad`, end tokens up to `length`.
// `place` is for errors.
Example make_example(const std::string& prompt, const std::string& answer, const DataRecipe& recipe,
                     const Vocabulary& vocabulary, const std::string& place);

// 0 … n - 1 in the order of `epoch`.
std::vector<uint32_t> shuffled(uint64_t seed, uint64_t epoch, size_t n);

}  // namespace tutti::train
