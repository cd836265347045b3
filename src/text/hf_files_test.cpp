// What is written of a tokenizer is read back as the same; the `tokenizers` library reads it in
// tests/conformance/test_finetuning.py.
#include "text/hf_files.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace tutti::text {
namespace {

// Letters, two merges, and three special tokens.
TokenizerSpec small() {
  TokenizerSpec spec;
  spec.name = "small";
  for (const char* text : {"a", "b", "c", "1", "2", "ab", "abc", "\xC4\xA0"})
    spec.tokens.push_back({text});
  for (const char* text : {"<s>", "</s>", "<mask>"}) {
    spec.added.push_back({});
    spec.added.back().id = int32_t(spec.tokens.size());
    spec.added.back().text = text;
    spec.added.back().special = true;
    spec.tokens.push_back({text, 0, TokenType::kControl});
  }
  spec.tokens.push_back({"", 0, TokenType::kUnused});
  spec.merges = {{"a", "b"}, {"ab", "c"}};
  spec.pre_tokenizer.add_split(R"(\p{N})", SplitBehavior::kIsolated);
  spec.normalizer.add_nfc();
  spec.bos = 8;
  spec.eos = 9;
  spec.mask = 10;
  spec.chat_template = "{{ messages[0]['content'] }}";
  return spec;
}

Tokenizer written(const TokenizerSpec& spec) {
  const HfTokenizerFiles files = hf_tokenizer_files(spec);
  return Tokenizer::from_hf(files.tokenizer_json, files.tokenizer_config_json);
}

TEST(HfFiles, AreReadBackAsTheTokenizerThatTheyWereWrittenOf) {
  for (const bool ends : {false, true}) {
    TokenizerSpec spec = small();
    spec.add_bos = spec.add_eos = ends;
    const Tokenizer before(spec), after = written(spec);
    for (const char* text : {"abc", "ab1c2abc", "ab ca</s>b<mask>c", "cab"}) {
      EXPECT_EQ(after.encode(text), before.encode(text)) << text;
      EXPECT_EQ(after.decode(after.encode(text)), text);
    }
    EXPECT_EQ(after.bos(), 8);
    EXPECT_EQ(after.eos(), 9);
    EXPECT_EQ(after.mask(), 10);
    EXPECT_EQ(after.add_bos_default(), ends);
    EXPECT_EQ(after.add_eos_default(), ends);
    EXPECT_EQ(after.chat_template(), spec.chat_template);
  }
}

std::string refused(const TokenizerSpec& spec) {
  try {
    hf_tokenizer_files(spec);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    return error.what();
  }
  return "";
}

TEST(HfFiles, WhatTheyCannotSayIsNamed) {
  TokenizerSpec spec = small();
  spec.kind = TokenizerKind::kSentencePieceBpe;
  EXPECT_NE(refused(spec).find("no byte-level BPE"), std::string::npos);
  spec = small();
  spec.tokens[3].text = "a";
  EXPECT_NE(refused(spec).find("token 3 twice"), std::string::npos);
  spec = small();
  spec.pre_tokenizer.add_prefix_space();
  EXPECT_NE(refused(spec).find("other means than expressions"), std::string::npos);
  spec = small();
  spec.normalizer.add_strip(true, false);
  EXPECT_NE(refused(spec).find("NFC"), std::string::npos);
}

}  // namespace
}  // namespace tutti::text
