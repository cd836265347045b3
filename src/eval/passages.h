// What reading passages side by side costs in quality: look-up questions over generated facts,
// scored by teacher forcing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "decode/ape/passages.h"
#include "engine/engine.h"

namespace tutti::eval {

// A question whose answer stands in one of the passages, as text. All facts are of the kind "The
// hometown of Maria is Lisbon."; several passages speak of the same attribute and of the same name,
// so that neither alone finds the answer.
struct LookupItem {
  std::vector<std::string> passages;
  std::string question;
  std::string answer;  // continues the question
};
// Item `number`, always the same; facts per passage and passages as given.
LookupItem lookup_item(uint32_t number, int passages, int facts_per_passage);

// The same in tokens. `prompt` holds the prefix [0, passages.at) and what stands behind the
// passages.
struct PassageQuestion {
  std::vector<int32_t> prompt;
  decode::Passages passages;
  std::vector<int32_t> answer;
};
struct PassageScore {
  double log_probability = 0;  // of the answer's tokens together, nats
  bool exact = false;          // greedy decoding writes the answer
  std::vector<float> logits;   // where the answer begins: [vocabulary]
};
// Of each question, by the mode of its passages; all run side by side. Throws what reading passages
// throws.
std::vector<PassageScore> score(engine::Engine& engine,
                                const std::vector<PassageQuestion>& questions);

// Kullback-Leibler divergence of softmax(q) from softmax(p), in nats.
double divergence(const std::vector<float>& p, const std::vector<float>& q);

}  // namespace tutti::eval
