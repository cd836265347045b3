// Prompts of vectors and positions of their own: what stands for an image.
#include <gtest/gtest.h>

#include "base/error.h"
#include "decode/tiny_text.h"

namespace tutti::decode {
namespace {

struct Case {
  const char* architecture;
  const char* method;
  std::map<std::string, std::string> options;
  int samples = 1;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> kCases{
      {"qwen3", "plain", {}},
      {"qwen3", "plain", {}, 3},
      {"qwen3", "beam", {{"width", "3"}}},
      {"dream", "diffusion", {{"policy", "static"}, {"block_length", "8"}}},
      {"dream", "diffusion", {{"policy", "confident"}, {"block_length", "0"}, {"cache", "prefix"}}},
      {"dream", "diffusion", {{"cache", "dual"}, {"block_length", "4"}}},
      {"dream", "diffusion", {{"cache", "delayed"}, {"refresh_every", "3"}}},
      {"dream", "diffusion", {{"guidance", "0.7"}}},
      {"dream", "freedave", {{"draft_steps", "3"}}},
      {"llada", "diffusion", {{"policy", "threshold"}, {"threshold", "0.3"}}},
      {"sdar", "diffusion", {{"policy", "static"}}}};
  return kCases;
}

GenerationOptions options_of(const Case& c) {
  GenerationOptions o;
  o.method = c.method;
  o.method_options = c.options;
  o.max_tokens = 16;
  o.n = c.samples;
  o.seed = 4;
  o.ignore_eos = true;
  if (c.samples > 1) o.sampling.temperature = 1;
  return o;
}

std::shared_ptr<PromptRows> plain_rows(size_t tokens) {
  auto rows = std::make_shared<PromptRows>();
  for (size_t i = 0; i < tokens; ++i) rows->positions.emplace_back(int32_t(i));
  rows->vectors.resize(tokens);
  rows->next = int(tokens);
  return rows;
}

// Positions as an image's: five rows share t, h and w differ.
std::shared_ptr<PromptRows> image_rows(size_t tokens) {
  auto rows = plain_rows(tokens);
  for (size_t i = 3; i < 8; ++i)
    rows->positions[i] = engine::Position(3, 3 + int(i - 3) / 2, 3 + int(i - 3) % 2);
  for (size_t i = 8; i < tokens; ++i) rows->positions[i] = engine::Position(int32_t(i) - 2);
  rows->next = int(tokens) - 2;
  return rows;
}

std::vector<std::vector<int32_t>> answers(TinyWorld& world, const std::vector<int32_t>& prompt,
                                          const GenerationOptions& options) {
  std::vector<std::vector<int32_t>> out;
  for (const Completion& c : world.run(prompt, options).completions) out.push_back(c.ids);
  return out;
}

TEST(PromptRows, EmbeddingsOfTheTokensAreTheTokens) {
  for (const Case& c : cases()) {
    TinyWorld world({}, c.architecture);
    std::vector<int32_t> prompt = tiny_prompt(1, 13);
    GenerationOptions options = options_of(c);
    const auto expected = answers(world, prompt, options);
    auto rows = plain_rows(prompt.size());
    for (const size_t i : {2u, 3u, 4u, 9u, 12u}) {
      rows->vectors[i] =
          world.tiny.model->checkpoint().weights().embedding.slice(prompt[i], 1).floats();
      if (i != 12) prompt[i] = 5;  // what stands under a vector is not read
    }
    options.prompt_rows = rows;
    EXPECT_EQ(answers(world, prompt, options), expected) << c.architecture << ' ' << c.method;
  }
}

TEST(PromptRows, PositionsAndVectorsReachTheModel) {
  for (const Case& c : cases()) {
    TinyWorld world({}, c.architecture);
    const std::vector<int32_t> prompt = tiny_prompt(1, 13);
    GenerationOptions options = options_of(c);
    const auto plain = answers(world, prompt, options);
    auto rows = image_rows(prompt.size());
    options.prompt_rows = rows;
    const auto moved = answers(world, prompt, options);
    rows = std::make_shared<PromptRows>(*rows);
    rows->vectors[5].assign(64, 3.0f);
    options.prompt_rows = rows;
    const auto other = answers(world, prompt, options);
    EXPECT_TRUE(plain != moved || moved != other) << c.architecture << ' ' << c.method;
  }
}

// The prompt's rows of a refreshed cache are those of no cache.
TEST(PromptRows, CachesRefreshedEachForwardAreExact) {
  TinyWorld world({}, "dream");
  const std::vector<int32_t> prompt = tiny_prompt(2, 13);
  for (const char* cache : {"prefix", "dual"}) {
    GenerationOptions options = options_of({"dream", "diffusion", {{"block_length", "4"}}});
    auto rows = image_rows(prompt.size());
    rows->vectors[4].assign(64, -1.5f);
    options.prompt_rows = rows;
    const auto expected = answers(world, prompt, options);
    options.method_options["cache"] = cache;
    options.method_options["refresh_every"] = "1";
    EXPECT_EQ(answers(world, prompt, options), expected) << cache;
  }
}

// Requests with images beside others write what they write alone.
TEST(PromptRows, ShareTicks) {
  TinyWorld world({}, "dream");
  std::vector<TinyWorld::Job> jobs;
  std::vector<std::vector<int32_t>> alone;
  for (uint32_t i = 0; i < 6; ++i) {
    GenerationOptions options =
        options_of({"dream", "diffusion", {{"cache", i % 2 ? "prefix" : "none"}}});
    const std::vector<int32_t> prompt = tiny_prompt(i, 10 + int(i));
    if (i % 3 != 0) {
      auto rows = image_rows(prompt.size());
      rows->vectors[6].assign(64, float(i));
      options.prompt_rows = rows;
    }
    alone.push_back(answers(world, prompt, options).front());
    jobs.emplace_back(prompt, options);
  }
  const std::vector<Outcome> together = world.run(jobs);
  for (size_t i = 0; i < jobs.size(); ++i)
    EXPECT_EQ(together[i].completions.front().ids, alone[i]) << i;
}

TEST(PromptRows, WhatDoesNotFitIsRefused) {
  TinyWorld world({}, "dream");
  const std::vector<int32_t> prompt = tiny_prompt(1, 9);
  const auto refused = [&](const std::function<void(PromptRows&, GenerationOptions&)>& change) {
    GenerationOptions options = options_of({"dream", "diffusion", {}});
    auto rows = plain_rows(prompt.size());
    change(*rows, options);
    options.prompt_rows = rows;
    EXPECT_THROW(world.run(prompt, options), Error);
  };
  refused([](PromptRows& r, GenerationOptions&) { r.positions.pop_back(); });
  refused([](PromptRows& r, GenerationOptions&) { r.vectors.emplace_back(); });
  refused([](PromptRows& r, GenerationOptions&) { r.vectors[1].assign(63, 0.0f); });
  refused([](PromptRows& r, GenerationOptions&) { r.next = 8; });
  refused([](PromptRows& r, GenerationOptions&) { r.positions[0].h = -1; });
  refused([](PromptRows&, GenerationOptions& o) { o.prompt_cache = "cache.kv"; });
}

}  // namespace
}  // namespace tutti::decode
