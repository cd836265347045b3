// Recipes are read strictly, and every refusal names the key and what to do.
#include "train/recipe.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/strict_object.h"

namespace tutti::train {
namespace {

using nlohmann::json;

json minimal() {
  return json::parse(R"({
    "name": "tiny",
    "model": {"family": "llama", "layers": 2, "hidden": 64, "heads": 2, "intermediate": 96, "context": 64},
    "tokenizer": {"characters": "01+="},
    "data": {"generator": "addition", "length": 32},
    "loss": {"kind": "next-token"},
    "optimiser": {"learning_rate": 0.001},
    "steps": 10,
    "sequences": 4
  })");
}

std::string refusal(const json& recipe) {
  try {
    parse_recipe(recipe.dump(), "r.json", "folder");
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Recipe, DefaultsAreFilledIn) {
  const Recipe r = parse_recipe(minimal().dump(), "r.json", "folder");
  EXPECT_EQ(r.model.kv_heads, 2);
  EXPECT_EQ(r.model.head_dim, 32);
  EXPECT_EQ(r.accumulate, 1);
  EXPECT_EQ(r.optimiser.kind, "adamw");
  EXPECT_EQ(r.lora.rank, 0);
  EXPECT_EQ(r.schedule.kind, Schedule::kConstant);
  EXPECT_EQ(r.evaluation.problems, 0);
  EXPECT_FALSE(r.bf16);
  EXPECT_EQ(json::parse(r.text), minimal());
}

TEST(Recipe, PathsAreRelativeToTheRecipe) {
  json recipe = minimal();
  recipe["data"] = {{"jsonl", "lines.jsonl"}, {"length", 32}};
  EXPECT_EQ(parse_recipe(recipe.dump(), "r.json", "folder").data.jsonl, "folder/lines.jsonl");
}

TEST(Recipe, ADeviceIsTheProcessorOrAGpu) {
  EXPECT_EQ(parse_recipe(minimal().dump(), "r.json", "folder").device, "cpu");
  for (const char* device : {"cpu", "cuda", "cuda:0", "cuda:12"}) {
    json recipe = minimal();
    recipe["device"] = device;
    EXPECT_EQ(parse_recipe(recipe.dump(), "r.json", "folder").device, device);
  }
  for (const char* device : {"", "gpu", "cuda:", "cuda:x", "cuda:123", "cuda:01", "cuda0", "CPU"}) {
    json recipe = minimal();
    recipe["device"] = device;
    EXPECT_NE(refusal(recipe).find("give \"cpu\", \"cuda\""), std::string::npos) << device;
  }
}

TEST(Recipe, UnknownKeysAreNamedWithTheNearestKnownOne) {
  json recipe = minimal();
  recipe["optimiser"]["learing_rate"] = 1;
  EXPECT_EQ(refusal(recipe),
            "r.json: optimiser: key \"learing_rate\" is not known; the nearest known one is "
            "\"learning_rate\"");
  recipe = minimal();
  recipe["setps"] = 3;
  EXPECT_EQ(refusal(recipe),
            "r.json: key \"setps\" is not known; the nearest known one is \"steps\"");
}

TEST(Recipe, WhatIsWrongIsNamed) {
  const struct {
    const char* patch;
    const char* expected;
  } kCases[] = {
      {R"({"steps": 0})", "key \"steps\" is 0; give a whole number from 1 to"},
      {R"({"steps": 1.5})", "key \"steps\" is no whole number"},
      {R"({"steps": 18446744073709551615})", "key \"steps\" is 18446744073709551615; give"},
      {R"({"steps": null})", "key \"steps\" is missing"},
      {R"({"optimiser": {"learning_rate": "fast"}})",
       "optimiser: key \"learning_rate\" is no number"},
      {R"({"optimiser": {"beta1": 1.0}})",
       "optimiser: key \"beta1\" is 1; give a number from 0 to"},
      {R"({"optimiser": {"momentum": 0.9}})", "\"momentum\" belongs to the kind \"sgd\""},
      {R"({"model": {"family": "lama"}})", "key \"family\" is \"lama\"; give one of llama, qwen2"},
      {R"({"model": {"block": 4}})", "\"block\" belongs to the family sdar"},
      {R"({"model": {"from": "folder"}})", "\"layers\" is a size of new weights"},
      {R"({"data": {"text": "a.txt"}})", "exclude each other; give exactly one"},
      {R"({"tokenizer": {"from": "folder"}})", "exclude each other"},
      {R"({"loss": {"kind": "block", "low": 0.5, "high": 0.5}})", "\"high\" is not above \"low\""},
      {R"({"loss": {"time_per_block": true}})", "\"time_per_block\" belongs to the kind \"block\""},
      {R"({"loss": {"weight": "context"}})", "belongs to the kind \"masked\""},
      {R"({"lora": {"rank": 4, "targets": ["q", "embedding"]}})",
       "lora: key \"targets\" names \"embedding\""},
      {R"({"schedule": {"kind": "cosine", "warmup": 11}})", "schedule: key \"warmup\" is 11"},
      {R"({"loss": {"anchors": 4}})",
       "\"anchors\" belongs to the kinds \"prompt-tokens\" and \"transfer\""},
      {R"({"loss": {"kind": "prompt-tokens", "mean": "tokens"}})",
       "\"mean\" does not go with the kinds \"prompt-tokens\" and \"transfer\""},
      {R"({"loss": {"enter": 4}})", "\"enter\" belongs to the kind \"transfer\""},
      {R"({"loss": {"kind": "transfer"}})", "\"enter\" is missing"},
      {R"({"loss": {"kind": "transfer", "enter": [1, 2]}})", "\"enter\" names 2 layers"},
      {R"({"loss": {"kind": "transfer", "enter": -1}})", "\"enter\" holds \"-1\""},
      {R"({"loss": {"kind": "transfer", "map": "medusa", "enter": 3}})",
       "\"enter\" does not go with the map \"medusa\""},
      {R"({"loss": {"kind": "transfer", "enter": 3}, "evaluation": {"problems": 4}})",
       "needs \"held_out\""},
      {R"({"loss": {"kind": "prompt-tokens"}, "lora": {"rank": 2}})",
       "\"lora\" does not go with this loss"},
      {R"({"precision": "fp8"})", "give one of f32, bf16"},
  };
  for (const auto& c : kCases) {
    json recipe = minimal();
    recipe.merge_patch(json::parse(c.patch));
    EXPECT_NE(refusal(recipe).find(c.expected), std::string::npos)
        << c.patch << ": " << refusal(recipe);
  }
  EXPECT_NE(refusal(json::array()).find("is no object"), std::string::npos);
}

TEST(Recipe, AForwardIsFilledByTokensOrBySequences) {
  json recipe = minimal();
  recipe["tokens"] = 512;
  EXPECT_NE(refusal(recipe).find("exclude each other"), std::string::npos);
  recipe.erase("sequences");
  const Recipe r = parse_recipe(recipe.dump(), "r.json", "folder");
  EXPECT_EQ(r.tokens, 512);
  EXPECT_EQ(r.sequences, 0);
  recipe["tokens"] = 31;
  EXPECT_NE(refusal(recipe).find("less than data.length"), std::string::npos);
  recipe.erase("tokens");
  EXPECT_NE(refusal(recipe).find("sequences"), std::string::npos);
}

TEST(Recipe, TheTokenizerIsTheModelsUnlessSaid) {
  json recipe = minimal();
  recipe["model"] = {{"from", "some.gguf"}};
  EXPECT_EQ(parse_recipe(recipe.dump(), "r.json", "folder").tokenizer.from, "");
  recipe["tokenizer"] = {{"mask", "<unused>"}};
  EXPECT_EQ(parse_recipe(recipe.dump(), "r.json", "folder").tokenizer.from, "some.gguf");
  EXPECT_EQ(parse_recipe(recipe.dump(), "r.json", "folder").tokenizer.mask, "<unused>");
  recipe.erase("tokenizer");
  EXPECT_EQ(parse_recipe(recipe.dump(), "r.json", "folder").tokenizer.from, "some.gguf");
  recipe["model"] = minimal()["model"];
  EXPECT_NE(refusal(recipe).find("tokenizer"), std::string::npos);
  recipe["tokenizer"] = {{"mask", "<unused>"}};
  EXPECT_NE(refusal(recipe).find("give one of them"), std::string::npos);
}

TEST(Recipe, EvaluationNeedsAGenerator) {
  json recipe = minimal();
  recipe["data"] = {{"jsonl", "lines.jsonl"}, {"length", 32}};
  recipe["evaluation"] = {{"problems", 5}};
  EXPECT_NE(refusal(recipe).find("needs data from a generator"), std::string::npos);
}

TEST(EditDistance, CountsLettersInsertedRemovedReplacedAndSwapped) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("abc", "abd"), 1);
  EXPECT_EQ(edit_distance("setps", "steps"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

TEST(Schedule, FollowsItsKind) {
  Schedule s;
  s.warmup = 4;
  EXPECT_DOUBLE_EQ(schedule_factor(s, 0, 20), 0.25);
  EXPECT_DOUBLE_EQ(schedule_factor(s, 3, 20), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(s, 19, 20), 1);
  s.kind = Schedule::kLinear;
  s.final = 0.2;
  EXPECT_DOUBLE_EQ(schedule_factor(s, 4, 20), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(s, 19, 20), 0.2);
  EXPECT_DOUBLE_EQ(schedule_factor(s, 9, 20), 0.2 + 0.8 * (1 - 5.0 / 15));
  s.kind = Schedule::kCosine;
  EXPECT_DOUBLE_EQ(schedule_factor(s, 4, 20), 1);
  EXPECT_NEAR(schedule_factor(s, 19, 20), 0.2, 1e-15);
  EXPECT_NEAR(schedule_factor(s, 9, 20), 0.2 + 0.8 * 0.75, 1e-15);  // cos(pi / 3) = 1/2
  s.kind = Schedule::kStable;
  s.decay = 5;
  EXPECT_DOUBLE_EQ(schedule_factor(s, 14, 20), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(s, 17, 20), 0.2 + 0.8 * 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(s, 19, 20), 0.2);
}

}  // namespace
}  // namespace tutti::train
