// Expected types are worked out by hand from llama.cpp's rules; that real files hold the same is
// tests/conformance's.
#include "convert/tensor_types.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/error.h"

namespace tutti::convert {
namespace {

using tensor::Type;

// A Llama of `layers` layers; rows of `wide`, the feed-forward's of 2 * wide.
std::vector<TensorFacts> llama(int layers, uint64_t wide = 512, bool tied = true) {
  std::vector<TensorFacts> t = {{"token_embd.weight", {wide, 1000}, Type::kF32}};
  if (!tied) t.push_back({"output.weight", {wide, 1000}, Type::kF32});
  for (int l = 0; l < layers; ++l) {
    const std::string at = "blk." + std::to_string(l) + ".";
    t.push_back({at + "attn_norm.weight", {wide}, Type::kF32});
    t.push_back({at + "attn_q.bias", {wide}, Type::kF16});
    for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"}) {
      t.push_back({at + part + ".weight", {wide, 64}, Type::kF32});
    }
    t.push_back({at + "ffn_down.weight", {2 * wide, 64}, Type::kF32});
    t.push_back({at + "ffn_gate_inp.weight", {wide, 8}, Type::kF32});
  }
  return t;
}

ModelFacts facts(int layers, int experts = 0) { return {"llama", layers, 8, 2, experts, false}; }

TypeRules rules(std::string_view type) {
  TypeRules r;
  r.file_type = file_type(type);
  return r;
}

std::map<std::string, TypeChoice> chosen(const TypeRules& r, const ModelFacts& model,
                                         const std::vector<TensorFacts>& tensors) {
  const auto choices = choose_types(r, model, tensors);
  std::map<std::string, TypeChoice> by_name;
  for (size_t i = 0; i < tensors.size(); ++i) by_name[tensors[i].name] = choices[i];
  return by_name;
}

// The layers whose tensor `part` has the type.
std::set<int> layers_with(const std::map<std::string, TypeChoice>& types, const std::string& part,
                          Type type) {
  std::set<int> layers;
  for (const auto& [name, choice] : types) {
    if (name.ends_with(part) && choice.type == type) layers.insert(layer_of(name));
  }
  return layers;
}

TEST(TensorTypes, MediumMixGivesMoreBitsToSensitiveLayers) {
  const auto types = chosen(rules("q4_k_m"), facts(32), llama(32));
  // The first and last eighth, and every third between.
  const std::set<int> more = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31};
  EXPECT_EQ(layers_with(types, "attn_v.weight", Type::kQ6_K), more);
  EXPECT_EQ(layers_with(types, "ffn_down.weight", Type::kQ6_K), more);
  EXPECT_EQ(layers_with(types, "attn_v.weight", Type::kQ4_K).size(), 32 - more.size());
  for (const char* part :
       {"attn_q.weight", "attn_k.weight", "attn_output.weight", "ffn_gate.weight", "ffn_up.weight"})
    EXPECT_EQ(layers_with(types, part, Type::kQ4_K).size(), 32u) << part;
  EXPECT_EQ(types.at("token_embd.weight").type, Type::kQ6_K);  // the head is tied to it
  const auto five = chosen(rules("Q5_K_M"), facts(32), llama(32));
  EXPECT_EQ(layers_with(five, "ffn_down.weight", Type::kQ6_K), more);
  EXPECT_EQ(layers_with(five, "attn_k.weight", Type::kQ5_K).size(), 32u);
}

TEST(TensorTypes, SmallMixesAndPlainTypes) {
  const auto small = chosen(rules("Q4_K_S"), facts(24), llama(24));
  EXPECT_EQ(layers_with(small, "attn_v.weight", Type::kQ5_K), (std::set<int>{0, 1, 2, 3}));
  EXPECT_EQ(layers_with(small, "ffn_down.weight", Type::kQ5_K), (std::set<int>{0, 1, 2}));
  EXPECT_EQ(layers_with(small, "attn_v.weight", Type::kQ4_K).size(), 20u);
  for (const char* name :
       {"Q5_K_S", "Q6_K", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "F16", "BF16", "F32"}) {
    const TypeRules r = rules(name);
    const auto types = chosen(r, facts(24), llama(24, 512, false));
    for (const char* part :
         {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
      EXPECT_EQ(layers_with(types, part + std::string(".weight"), r.file_type.type).size(), 24u)
          << name << part;
    }
    EXPECT_EQ(types.at("token_embd.weight").type, r.file_type.type) << name;
    const bool is_float = !tensor::info(r.file_type.type).quantised;
    const Type head = is_float || name == std::string("Q8_0") ? r.file_type.type : Type::kQ6_K;
    EXPECT_EQ(types.at("output.weight").type, head) << name;
  }
}

TEST(TensorTypes, VectorsNormsAndRoutersStay) {
  auto tensors = llama(1);
  tensors.push_back(
      {"blk.0.attn_rot.weight", {512, 1}, Type::kF16});  // a vector with a dimension of one
  tensors.push_back({"blk.0.attn_q_norm.weight", {512, 4}, Type::kF16});
  ModelFacts model = facts(1);
  for (const char* name : {"Q4_K_M", "F16", "COPY"}) {
    model.from_folder = false;
    auto types = chosen(rules(name), model, tensors);
    EXPECT_EQ(types.at("blk.0.attn_norm.weight").type, Type::kF32);
    EXPECT_EQ(types.at("blk.0.attn_q.bias").type, Type::kF16);
    EXPECT_EQ(types.at("blk.0.ffn_gate_inp.weight").type, Type::kF32);
    EXPECT_EQ(types.at("blk.0.attn_rot.weight").type, Type::kF16);
    EXPECT_EQ(types.at("blk.0.attn_q_norm.weight").type, Type::kF16);
    model.from_folder = true;
    types = chosen(rules(name), model, tensors);
    EXPECT_EQ(types.at("blk.0.attn_q.bias").type, Type::kF32);
    EXPECT_EQ(types.at("blk.0.attn_q_norm.weight").type, Type::kF32);
  }
  for (TensorFacts& t : tensors) t.stored = Type::kBF16;
  const auto copied = chosen(rules("COPY"), model, tensors);
  EXPECT_EQ(copied.at("blk.0.ffn_up.weight").type, Type::kBF16);
  EXPECT_EQ(copied.at("blk.0.ffn_gate_inp.weight").type, Type::kF32);
}

TEST(TensorTypes, RowsThatDoNotFitFallBack) {
  const auto expect = [](const char* name, uint64_t wide, Type type, Type wanted) {
    const auto choice = chosen(rules(name), facts(24), llama(24, wide)).at("blk.12.attn_q.weight");
    EXPECT_EQ(choice.type, type) << name << wide;
    EXPECT_EQ(choice.wanted, wanted) << name << wide;
  };
  expect("Q4_K_M", 576, Type::kQ5_0, Type::kQ4_K);
  expect("Q5_K_M", 576, Type::kQ5_1, Type::kQ5_K);
  expect("Q6_K", 576, Type::kQ8_0, Type::kQ6_K);
  expect("Q4_K_M", 80, Type::kF16, Type::kQ4_K);
  expect("Q8_0", 80, Type::kF16, Type::kQ8_0);
  const auto types = chosen(rules("Q4_K_M"), facts(24), llama(24, 640));
  EXPECT_EQ(types.at("blk.12.ffn_down.weight").type, Type::kQ4_K);  // rows of 1280
  EXPECT_EQ(types.at("blk.12.ffn_down.weight").wanted, std::nullopt);
  // The head asks for Q8_0 by itself where its rows do not fit, which is no fallback.
  EXPECT_EQ(types.at("token_embd.weight").type, Type::kQ8_0);
  EXPECT_EQ(types.at("token_embd.weight").wanted, std::nullopt);
  EXPECT_EQ(chosen(rules("Q4_1"), facts(24), llama(24, 576)).at("token_embd.weight").type,
            Type::kQ8_0);
}

TEST(TensorTypes, EightExpertsAndEightyLayers) {
  const auto eight = chosen(rules("Q4_K_M"), facts(32, 8), llama(32));
  EXPECT_EQ(layers_with(eight, "attn_v.weight", Type::kQ8_0).size(), 32u);
  EXPECT_EQ(layers_with(eight, "attn_k.weight", Type::kQ8_0).size(), 32u);
  EXPECT_EQ(layers_with(eight, "attn_output.weight", Type::kQ5_K).size(), 32u);
  const auto eighty = chosen(rules("Q4_K_M"), facts(80), llama(80));
  EXPECT_EQ(layers_with(eighty, "attn_v.weight", Type::kQ4_K).size(), 0u);
  EXPECT_EQ(layers_with(eighty, "attn_v.weight", Type::kQ5_K).size(), 40u);
  ModelFacts ungrouped = facts(80);
  ungrouped.kv_heads = ungrouped.heads;
  EXPECT_EQ(layers_with(chosen(rules("Q4_K_M"), ungrouped, llama(80)), "attn_v.weight", Type::kQ5_K)
                .size(),
            0u);
}

TEST(TensorTypes, WhatTheUserAsksForWins) {
  TypeRules r = rules("Q4_K_M");
  r.pure = true;
  auto types = chosen(r, facts(8), llama(8, 512, false));
  EXPECT_EQ(layers_with(types, "ffn_down.weight", Type::kQ4_K).size(), 8u);
  EXPECT_EQ(types.at("output.weight").type, Type::kQ4_K);

  r = rules("Q4_K_M");
  r.output = Type::kF16;
  r.token_embedding = Type::kQ5_1;
  r.overrides.push_back({text::Regex("blk\\.[01]\\.ffn_"), Type::kQ8_0});
  r.overrides.push_back({text::Regex("ffn_up"), Type::kF32});
  types = chosen(r, facts(8), llama(8, 512, false));
  EXPECT_EQ(types.at("output.weight").type, Type::kF16);
  EXPECT_EQ(types.at("token_embd.weight").type, Type::kQ5_1);
  EXPECT_EQ(layers_with(types, "ffn_up.weight", Type::kQ8_0), (std::set<int>{0, 1}));
  EXPECT_EQ(layers_with(types, "ffn_up.weight", Type::kF32).size(), 6u);
  EXPECT_EQ(types.at("blk.0.ffn_gate_inp.weight").type, Type::kF32);
  r.token_embedding.reset();
  EXPECT_EQ(chosen(r, facts(8), llama(8)).at("token_embd.weight").type,
            Type::kF16);  // tied: it is the output

  r = rules("Q8_0");
  r.leave_output = true;
  auto halves = llama(1, 512, false);
  halves[1].stored = Type::kBF16;
  EXPECT_EQ(chosen(r, facts(1), halves).at("output.weight").type, Type::kBF16);
  // Overrides hold for files of floats too.
  r = rules("F16");
  r.overrides.push_back({text::Regex("attn_v"), Type::kQ8_0});
  EXPECT_EQ(chosen(r, facts(8), llama(8)).at("blk.3.attn_v.weight").type, Type::kQ8_0);

  r.overrides.push_back({text::Regex("attn_norm"), Type::kQ8_0});
  try {
    choose_types(r, facts(8), llama(8));
    ADD_FAILURE() << "a pattern that matches nothing was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("\"attn_norm\""), std::string::npos) << error.what();
  }
}

TEST(TensorTypes, ImportancesGuardTheFirstFeedForwards) {
  TypeRules r = rules("Q4_0");
  r.importances = true;
  auto types = chosen(r, facts(24), llama(24));
  EXPECT_EQ(layers_with(types, "ffn_down.weight", Type::kQ4_1), (std::set<int>{0, 1, 2}));
  r.file_type = file_type("Q5_0");
  types = chosen(r, facts(24), llama(24));
  EXPECT_EQ(layers_with(types, "ffn_down.weight", Type::kQ5_1), (std::set<int>{0, 1, 2}));
}

TEST(FileTypes, UnknownNamesListTheKnown) {
  EXPECT_EQ(file_type("q5_k").id, 17u);
  EXPECT_EQ(file_type("bf16").id, 32u);
  for (const auto& action :
       {+[] { file_type("Q3_K"); }, +[] { tensor_type("Q3_K", "--tensor-type"); }}) {
    try {
      action();
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      for (const char* part : {"\"Q3_K\"", "Q4_K", "Q8_0", "BF16"})
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace tutti::convert
