// For tests: that a method gives what plain decoding gives, in every respect that a user can see.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/draws.h"
#include "decode/tiny_text.h"

namespace tutti::decode::speculative {

// A random automaton over the tiny vocabulary: some tokens are allowed in each state, and each
// leads to some state.
class RandomConstraint final : public Constraint,
                               public std::enable_shared_from_this<RandomConstraint> {
 public:
  explicit RandomConstraint(uint32_t automaton, uint32_t state = 0)
      : automaton_(automaton), state_(state) {
    DrawKey key;
    key.purpose = Purpose::kTest;
    key.seed = automaton;
    key.path = state;
    Draws draws(key);
    auto set = std::make_shared<std::vector<uint64_t>>(2, 0);
    const int count = 1 + draws.below(4);
    for (int i = 0; i < count; ++i) {
      const int id =
          draws.chance(0.03) ? kTinyEos : kFirstLetter + draws.below(kTinyVocab - kFirstLetter);
      (*set)[size_t(id / 64)] |= uint64_t(1) << (id % 64);
    }
    set_ = std::move(set);
  }
  std::shared_ptr<const std::vector<uint64_t>> allowed() const override { return set_; }
  std::shared_ptr<const Constraint> after(int32_t token) const override {
    if (!((*set_)[size_t(token / 64)] >> (token % 64) & 1)) return nullptr;
    return std::make_shared<RandomConstraint>(automaton_, (state_ * 31 + uint32_t(token) * 7) % 12);
  }

 private:
  uint32_t automaton_, state_;
  std::shared_ptr<const std::vector<uint64_t>> set_;
};

// A prompt in which pieces come again.
inline std::vector<int32_t> echoing_prompt(uint32_t stream, int tokens) {
  DrawKey key;
  key.purpose = Purpose::kTest;
  key.path = stream;
  Draws draws(key);
  std::vector<int32_t> prompt = tiny_prompt(stream, std::min(tokens, 6));
  while (int(prompt.size()) < tokens) {
    const size_t from = size_t(draws.below(int(prompt.size())));
    const size_t length = std::min(size_t(1 + draws.below(8)), prompt.size() - from);
    for (size_t i = 0; i < length; ++i) prompt.push_back(prompt[from + i]);
    if (draws.chance(0.2)) prompt.push_back(kFirstByte + draws.below(kTinyVocab - kFirstByte));
  }
  prompt.resize(size_t(tokens));
  return prompt;
}

// Requests of every kind: temperatures, rules, penalties, bias, log-probabilities, stops, samples,
// limits, constraints.
inline GenerationOptions varied_options(Draws& draws, int max_tokens) {
  GenerationOptions o;
  o.max_tokens = max_tokens;
  o.seed = draws.word();
  auto& s = o.sampling;
  s.temperature = draws.chance(0.4) ? 0.0f : draws.uniform(0.05f, 1.2f);
  if (!s.greedy() && draws.chance(0.3)) s.top_k = 1 + draws.below(20);
  if (!s.greedy() && draws.chance(0.3)) s.top_p = draws.uniform(0.3f, 1.0f);
  if (!s.greedy() && draws.chance(0.2)) s.min_p = draws.uniform(0.0f, 0.3f);
  if (draws.chance(0.25)) s.repetition_penalty = draws.uniform(0.7f, 1.3f);
  if (draws.chance(0.25)) s.penalty_window = draws.below(20);
  if (draws.chance(0.25)) s.frequency_penalty = draws.uniform(-0.5f, 0.5f);
  if (draws.chance(0.25)) s.presence_penalty = draws.uniform(-0.5f, 0.5f);
  if (draws.chance(0.3)) {
    for (int i = 0; i < 4; ++i)
      s.logit_bias.emplace_back(kFirstLetter + draws.below(60), draws.uniform(2.0f, 6.0f));
  }
  if (draws.chance(0.3)) s.logprobs = draws.below(4);
  if (draws.chance(0.2)) o.stop = {std::string(1, char('a' + draws.below(26)))};
  if (draws.chance(0.2)) o.ignore_eos = true;
  if (draws.chance(0.3)) o.n = 2 + draws.below(2);
  if (draws.chance(0.35)) o.constraint = std::make_shared<RandomConstraint>(draws.word());
  return o;
}

inline void expect_same_picks(const engine::Picked& a, const engine::Picked& b) {
  EXPECT_EQ(a.token, b.token);
  EXPECT_EQ(a.log_probability, b.log_probability);
  EXPECT_EQ(a.raw_log_probability, b.raw_log_probability);
  ASSERT_EQ(a.top.size(), b.top.size());
  for (size_t i = 0; i < a.top.size(); ++i) {
    EXPECT_EQ(a.top[i].token, b.top[i].token);
    EXPECT_EQ(a.top[i].log_probability, b.top[i].log_probability);
  }
}

inline std::string streamed(const Outcome& out, int choice) {
  std::string text;
  for (const Piece& piece : out.pieces) {
    if (piece.choice == choice) text += piece.text;
  }
  return text;
}

// The same tokens, texts, log-probabilities, ends and stream; the same error.
inline void expect_same(const Outcome& plain, const Outcome& other, const std::string& what) {
  SCOPED_TRACE(what);
  ASSERT_EQ(bool(plain.error), bool(other.error));
  ASSERT_EQ(plain.completions.size(), other.completions.size());
  for (size_t c = 0; c < plain.completions.size(); ++c) {
    const Completion& a = plain.completions[c];
    const Completion& b = other.completions[c];
    ASSERT_EQ(a.ids, b.ids);
    EXPECT_EQ(a.text, b.text);
    EXPECT_EQ(a.finish, b.finish);
    ASSERT_EQ(a.picked.size(), b.picked.size());
    for (size_t i = 0; i < a.picked.size(); ++i) expect_same_picks(a.picked[i], b.picked[i]);
    EXPECT_EQ(streamed(plain, int(c)), streamed(other, int(c)));
    EXPECT_EQ(streamed(other, int(c)), b.text);
  }
}

// The jobs by plain decoding, all at once.
inline std::vector<Outcome> run_plain(TinyWorld& world, std::vector<TinyWorld::Job> jobs) {
  for (auto& job : jobs) {
    job.options.method = "plain";
    job.options.method_options.clear();
  }
  return world.run(jobs);
}

// Sums over the choices of some outcomes.
inline MethodStatistics total(const std::vector<Outcome>& outcomes) {
  MethodStatistics sum;
  for (const Outcome& out : outcomes) {
    for (const Completion& c : out.completions) {
      sum.forwards += c.statistics.forwards;
      sum.rows += c.statistics.rows;
      sum.proposed += c.statistics.proposed;
      sum.accepted += c.statistics.accepted;
      sum.draft_forwards += c.statistics.draft_forwards;
    }
  }
  return sum;
}

inline size_t tokens_of(const std::vector<Outcome>& outcomes) {
  size_t tokens = 0;
  for (const Outcome& out : outcomes) {
    for (const Completion& c : out.completions) tokens += c.ids.size();
  }
  return tokens;
}

// Requests at one temperature whose text goes on to the limit; request i has the prompt
// prompt_of(i).
template <class PromptOf>
std::vector<TinyWorld::Job> endless_jobs(int count, float temperature, int tokens,
                                         const PromptOf& prompt_of) {
  std::vector<TinyWorld::Job> jobs;
  for (int i = 0; i < count; ++i) {
    GenerationOptions o;
    o.sampling.temperature = temperature;
    o.seed = uint64_t(i) + 1;
    o.max_tokens = tokens;
    o.ignore_eos = true;
    jobs.emplace_back(prompt_of(i), o);
  }
  return jobs;
}

// Drafts that stood, in all and of requests with a constraint.
struct Stood {
  uint64_t all = 0, constrained = 0;
};

// Rounds of sixteen requests of every kind at once: by plain decoding, and by what is chosen for
// each. prepare(world, draws) returns what chooses: a function of a job, alive until the round
// ends.
template <class Prepare>
Stood expect_same_for_every_option(uint32_t seed, int rounds, int most_tokens,
                                   const Prepare& prepare) {
  Draws draws(seed);
  Stood stood;
  for (int round = 0; round < rounds; ++round) {
    TinyWorld world;
    std::vector<TinyWorld::Job> jobs;
    for (int i = 0; i < 16; ++i) {
      jobs.emplace_back(echoing_prompt(uint32_t(round * 16 + i), 2 + draws.below(60)),
                        varied_options(draws, draws.below(most_tokens)));
    }
    const auto plain = run_plain(world, jobs);
    const auto choose = prepare(world, draws);
    for (auto& job : jobs) choose(job);
    const auto got = world.run(jobs);
    for (size_t i = 0; i < jobs.size(); ++i) {
      expect_same(plain[i], got[i],
                  "round " + std::to_string(round) + ", request " + std::to_string(i));
      if (jobs[i].options.constraint) stood.constrained += total({got[i]}).accepted;
    }
    stood.all += total(got).accepted;
    EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
  }
  return stood;
}

}  // namespace tutti::decode::speculative
