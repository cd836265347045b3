#include "train/examples.h"

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "formats/json_text.h"
#include "train/problems.h"
#include "train/strict_object.h"

namespace tutti::train {
namespace {

std::vector<int32_t> encode(const std::string& text, const Vocabulary& v,
                            const std::string& place) {
  std::vector<int32_t> ids = v.tokenizer.encode(text);
  if (v.characters && v.tokenizer.decode_bytes(ids) != text) {
    throw Error(
        ErrorKind::kUsage,
        place + ": has a character that is no token; add it to tokenizer.characters of the recipe");
  }
  return ids;
}

class Generated : public ExampleSource {
 public:
  Generated(const DataRecipe& recipe, uint64_t seed, const Vocabulary& vocabulary)
      : recipe_(recipe),
        seed_(seed),
        vocabulary_(vocabulary),
        problems_(make_problems(recipe.generator)) {}
  Example at(uint64_t index) const override {
    const Problem p = problem_at(*problems_, seed_, false, index);
    return make_example(p.prompt, p.answer, recipe_, vocabulary_, "generator " + recipe_.generator);
  }

 private:
  const DataRecipe recipe_;
  uint64_t seed_;
  const Vocabulary& vocabulary_;
  std::unique_ptr<ProblemSource> problems_;
};

class Listed : public ExampleSource {
 public:
  Listed(std::vector<Example> examples, uint64_t seed)
      : examples_(std::move(examples)), seed_(seed) {}
  Example at(uint64_t index) const override {
    const uint64_t epoch = index / examples_.size();
    if (order_.empty() || epoch != epoch_) {
      order_ = shuffled(seed_, epoch, examples_.size());
      epoch_ = epoch;
    }
    return examples_[order_[index % examples_.size()]];
  }

 private:
  std::vector<Example> examples_;
  uint64_t seed_;
  mutable std::vector<uint32_t> order_;  // of epoch_
  mutable uint64_t epoch_ = 0;
};

std::vector<Example> read_lines(const DataRecipe& recipe, const Vocabulary& v) {
  std::istringstream lines(read_file(recipe.jsonl));
  std::vector<Example> out;
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place = recipe.jsonl.string() + ", line " + std::to_string(number);
    const nlohmann::json value = formats::parse_json(line, place);
    StrictObject o(value, place);
    const bool whole = o.has("text");
    const std::string prompt = whole ? "" : o.text("prompt"),
                      answer = whole ? o.text("text") : o.text("answer");
    o.finish();
    out.push_back(make_example(prompt, answer, recipe, v, place));
  }
  return out;
}

std::vector<Example> cut_text(const DataRecipe& recipe, const Vocabulary& v) {
  const std::vector<int32_t> ids = encode(read_file(recipe.text), v, recipe.text.string());
  std::vector<Example> out;
  for (size_t first = 0; first + 1 < ids.size(); first += size_t(recipe.length)) {
    const size_t last = std::min(first + size_t(recipe.length), ids.size());
    if (last - first > 1)
      out.push_back({{ids.begin() + ptrdiff_t(first), ids.begin() + ptrdiff_t(last)}, 0});
  }
  return out;
}

}  // namespace

std::vector<uint32_t> shuffled(uint64_t seed, uint64_t epoch, size_t n) {
  DrawKey key;
  key.seed = seed;
  key.purpose = Purpose::kDataShuffle;
  key.path = uint32_t(epoch >> 32);
  key.position = uint32_t(epoch);
  Draws draws(key);
  std::vector<uint32_t> order(n);
  for (size_t i = 0; i < n; ++i) order[i] = uint32_t(i);
  draws.shuffle(order);
  return order;
}

Example make_example(const std::string& prompt, const std::string& answer, const DataRecipe& recipe,
                     const Vocabulary& v, const std::string& place) {
  Example e;
  e.tokens = encode(prompt, v, place);
  e.prompt = int(e.tokens.size());
  const std::vector<int32_t> ids = encode(answer, v, place);
  e.tokens.insert(e.tokens.end(), ids.begin(), ids.end());
  e.tokens.push_back(v.end);
  if (e.tokens.size() > size_t(recipe.length)) {
    throw Error(ErrorKind::kUsage, place + ": " + std::to_string(e.tokens.size()) +
                                       " tokens are more than data.length, " +
                                       std::to_string(recipe.length) +
                                       "; raise it or shorten the text");
  }
  if (recipe.pad) e.tokens.resize(size_t(recipe.length), v.end);
  return e;
}

std::unique_ptr<ExampleSource> make_examples(const DataRecipe& recipe, uint64_t seed,
                                             const Vocabulary& vocabulary) {
  if (!recipe.generator.empty()) return std::make_unique<Generated>(recipe, seed, vocabulary);
  std::vector<Example> examples =
      recipe.text.empty() ? read_lines(recipe, vocabulary) : cut_text(recipe, vocabulary);
  if (examples.empty()) {
    const auto& path = recipe.text.empty() ? recipe.jsonl : recipe.text;
    throw Error(ErrorKind::kUsage, path.string() + ": holds nothing to train on");
  }
  return std::make_unique<Listed>(std::move(examples), seed);
}

}  // namespace tutti::train
