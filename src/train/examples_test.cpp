// Data: files and generators to tokens, in an order that is a function of the seed.
#include "train/examples.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "base/error.h"
#include "formats/temporary_folder.h"

namespace tutti::train {
namespace {

using formats::TemporaryFolder;

Vocabulary letters() {
  TokenizerRecipe recipe;
  recipe.characters = "abcdefgh \n";
  return make_vocabulary(recipe);
}
constexpr int kEnd = 10;

std::filesystem::path write(const TemporaryFolder& folder, const std::string& text) {
  const auto path = folder / "data";
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::string refusal(const DataRecipe& recipe) {
  const Vocabulary v = letters();
  try {
    make_examples(recipe, 1, v);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Vocabulary, HasATokenPerCharacterAndTwoMore) {
  const Vocabulary v = letters();
  EXPECT_EQ(v.tokenizer.vocab_size(), 12);
  EXPECT_EQ(v.end, 10);
  EXPECT_EQ(v.mask, 11);
  EXPECT_EQ(v.tokenizer.encode("ab a\nh"), (std::vector<int32_t>{0, 1, 8, 0, 9, 7}));
  EXPECT_EQ(v.tokenizer.decode(std::vector<int32_t>{0, 1, 8, 0, 9, 7}), "ab a\nh");
  EXPECT_EQ(v.tokenizer.encode("a<|mask|>"), (std::vector<int32_t>{0, 11}));
  EXPECT_THROW(character_tokenizer("aba"), Error);
  EXPECT_THROW(character_tokenizer("\xC3\xA4"), Error);
  EXPECT_THROW(character_tokenizer("ab", {}, {"aa", "aa"}), Error);
  EXPECT_THROW(character_tokenizer("ab", {}, {""}), Error);
  TokenizerRecipe named;
  named.characters = "ab";
  named.mask = "c";
  EXPECT_THROW(make_vocabulary(named), Error);
}

TEST(Vocabulary, WordsAreATokenEachTheLongestFirst) {
  const auto files = character_tokenizer("ab", {"<|x|>"}, {"ab", "abab"});
  const auto tokenizer =
      text::Tokenizer::from_hf(files.tokenizer_json, files.tokenizer_config_json);
  EXPECT_EQ(tokenizer.vocab_size(), 7);
  const std::vector<int32_t> ids = tokenizer.encode("bababab<|x|>a");
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 6, 5, 4, 0}));
  EXPECT_EQ(tokenizer.decode_bytes(std::span(ids).first(3), /*skip_special=*/true), "bababab");
}

TEST(Examples, LinesArePromptsAndAnswers) {
  const TemporaryFolder folder;
  DataRecipe recipe;
  recipe.length = 8;
  recipe.jsonl = write(folder, "{\"prompt\": \"ab\", \"answer\": \"cd\"}\n\n{\"text\": \"hh\"}\n");
  const Vocabulary v = letters();
  const auto source = make_examples(recipe, 1, v);
  std::set<std::vector<int32_t>> seen;
  for (uint64_t i = 0; i < 2; ++i) {
    const Example e = source->at(i);
    seen.insert(e.tokens);
    EXPECT_EQ(e.prompt, e.tokens.size() == 5 ? 2 : 0);
  }
  EXPECT_EQ(seen, (std::set<std::vector<int32_t>>{{0, 1, 2, 3, kEnd}, {7, 7, kEnd}}));
  recipe.pad = true;
  EXPECT_EQ(make_example("ab", "c", recipe, v, "x").tokens,
            (std::vector<int32_t>{0, 1, 2, kEnd, kEnd, kEnd, kEnd, kEnd}));
}

TEST(Examples, WhatIsWrongIsNamedWithItsLine) {
  const TemporaryFolder folder;
  DataRecipe recipe;
  recipe.length = 5;
  recipe.jsonl = write(folder, "{\"text\": \"ab\"}\n{\"text\": \"abcdefgh\"}\n");
  EXPECT_NE(refusal(recipe).find("line 2: 9 tokens are more than data.length, 5"),
            std::string::npos);
  write(folder, "{\"text\": \"ab\"}\n{\"prompt\": \"ab\"}\n");
  EXPECT_NE(refusal(recipe).find("line 2: key \"answer\" is missing"), std::string::npos);
  write(folder, "{\"text\": \"az\"}\n");
  EXPECT_NE(refusal(recipe).find("line 1: has a character that is no token"), std::string::npos);
  write(folder, "{\"txt\": \"ab\", \"text\": \"a\"}\n");
  EXPECT_NE(refusal(recipe).find("the nearest known one is \"text\""), std::string::npos);
  write(folder, "\n");
  EXPECT_NE(refusal(recipe).find("holds nothing to train on"), std::string::npos);
}

TEST(Examples, ATextIsCutIntoWindows) {
  const TemporaryFolder folder;
  DataRecipe recipe;
  recipe.length = 4;
  recipe.text = write(folder, "abcdefgh abc");
  const Vocabulary v = letters();
  std::set<std::vector<int32_t>> seen;
  const auto source = make_examples(recipe, 1, v);
  for (uint64_t i = 0; i < 3; ++i) seen.insert(source->at(i).tokens);
  EXPECT_EQ(seen, (std::set<std::vector<int32_t>>{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 0, 1, 2}}));
}

TEST(Examples, EveryEpochHasAllInAnOrderOfItsOwn) {
  const auto first = shuffled(1, 0, 100), second = shuffled(1, 1, 100);
  EXPECT_NE(first, second);
  EXPECT_NE(first, shuffled(2, 0, 100));
  EXPECT_EQ(first, shuffled(1, 0, 100));
  EXPECT_EQ(std::set<uint32_t>(first.begin(), first.end()).size(), 100u);
  const TemporaryFolder folder;
  DataRecipe recipe;
  recipe.length = 4;
  recipe.jsonl = write(folder, "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"text\": \"c\"}\n");
  const Vocabulary v = letters();
  const auto source = make_examples(recipe, 1, v);
  // Number 7 is the same whatever was asked before.
  const auto seventh = source->at(7).tokens;
  source->at(1);
  EXPECT_EQ(source->at(7).tokens, seventh);
  for (uint64_t epoch = 0; epoch < 5; ++epoch) {
    std::set<std::vector<int32_t>> seen;
    for (uint64_t i = 0; i < 3; ++i) seen.insert(source->at(3 * epoch + i).tokens);
    EXPECT_EQ(seen.size(), 3u);
  }
}

}  // namespace
}  // namespace tutti::train
