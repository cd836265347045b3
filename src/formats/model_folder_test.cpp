#include "formats/model_folder.h"

#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "base/files.h"
#include "formats/temporary_folder.h"

namespace tutti::formats {
namespace {

namespace fs = std::filesystem;

class Folder : public testing::Test {
 protected:
  Folder() { put("config.json", R"({"model_type":"llama","hidden_size":64})"); }

  void put(const std::string& name, const std::string& text) {
    fs::create_directories((path_ / name).parent_path());
    write_file_atomically(path_ / name, text);
  }
  void put_weights(const std::string& name, const std::string& tensor) {
    const std::vector<std::byte> data(4);
    write_safetensors(path_ / name, {{tensor, Dtype::kF32, {1}, data}});
  }
  std::string refusal(const std::function<void()>& action, ErrorKind kind) {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(int(error.kind()), int(kind)) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  }
  std::string open_refusal(ErrorKind kind) {
    return refusal([&] { ModelFolder::open(path_); }, kind);
  }

 private:
  TemporaryFolder folder_;

 protected:
  fs::path path_ = folder_.path();
};

TEST_F(Folder, ReadsEveryPiece) {
  put("generation_config.json", R"({"eos_token_id":[1,2]})");
  put("tokenizer.json", R"({"version":"1.0"})");
  put("tokenizer_config.json", R"({"bos_token":"<s>","chat_template":"{{ messages }}"})");
  put("merges.txt", "#version: 0.2\n");
  put_weights("model.safetensors", "w");
  const ModelFolder folder = ModelFolder::open(path_);
  EXPECT_EQ(folder.config().at("hidden_size"), 64);
  EXPECT_EQ(folder.generation_config().at("eos_token_id").size(), 2u);
  EXPECT_EQ(folder.tokenizer().at("version"), "1.0");
  EXPECT_EQ(folder.tokenizer_config().at("bos_token"), "<s>");
  EXPECT_EQ(folder.chat_template(), "{{ messages }}");
  EXPECT_EQ(folder.weights().tensor("w").elements(), 1u);
  EXPECT_EQ(folder.text("merges.txt"), "#version: 0.2\n");
  EXPECT_EQ(folder.text("vocab.json"), std::nullopt);
  EXPECT_THROW(folder.text("../config.json"), Error);
}

TEST_F(Folder, ChatTemplatesOfEveryKind) {
  EXPECT_EQ(ModelFolder::open(path_).chat_template(), std::nullopt);
  put("tokenizer_config.json",
      R"({"chat_template":[{"name":"default","template":"D"},{"name":"rag","template":"R"}]})");
  EXPECT_EQ(ModelFolder::open(path_).chat_template(), "D");
  put("chat_template.jinja", "J");
  put("additional_chat_templates/tool_use.jinja", "T");
  const std::map<std::string, std::string> expected = {
      {"default", "J"}, {"rag", "R"}, {"tool_use", "T"}};
  EXPECT_EQ(ModelFolder::open(path_).chat_templates(), expected);
  for (const char* wrong : {"1", "{}", "[1]", R"([{"name":"a"}])", R"([{"name":1,"template":"x"}])",
                            R"([{"name":"a","template":"x"},{"name":"a","template":"y"}])"}) {
    put("tokenizer_config.json", std::string(R"({"chat_template":)") + wrong + "}");
    EXPECT_NE(open_refusal(ErrorKind::kBadFile).find("tokenizer_config.json: chat_template: "),
              std::string::npos);
  }
}

TEST_F(Folder, ShardsAndOddNamesOfWeights) {
  put_weights("model-00001-of-00002.safetensors", "a");
  EXPECT_NE(ModelFolder::open(path_).weights().find("a"), nullptr);  // the only one there is
  put_weights("model-00002-of-00002.safetensors", "b");
  EXPECT_NE(open_refusal(ErrorKind::kNotFound).find("model.safetensors.index.json: is missing"),
            std::string::npos);
  put("model.safetensors.index.json",
      R"({"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})");
  EXPECT_NE(ModelFolder::open(path_).weights().find("b"), nullptr);
}

TEST_F(Folder, WhatIsMissingIsNamed) {
  const ModelFolder folder = ModelFolder::open(path_);
  EXPECT_TRUE(folder.generation_config().empty());
  EXPECT_NE(refusal([&] { folder.weights(); }, ErrorKind::kNotFound)
                .find("model.safetensors: is missing"),
            std::string::npos);
  EXPECT_NE(
      refusal([&] { folder.tokenizer(); }, ErrorKind::kNotFound).find("tokenizer.json: is missing"),
      std::string::npos);
  put("pytorch_model.bin", "pickle");
  EXPECT_NE(refusal([&] { folder.weights(); }, ErrorKind::kUnsupported).find("never read"),
            std::string::npos);
  fs::remove(path_ / "config.json");
  EXPECT_NE(open_refusal(ErrorKind::kNotFound).find("config.json: is missing"), std::string::npos);
  path_ /= "absent";
  EXPECT_NE(open_refusal(ErrorKind::kNotFound).find("is no folder"), std::string::npos);
}

TEST_F(Folder, BrokenPiecesAreNamed) {
  for (const char* file : {"config.json", "generation_config.json", "tokenizer_config.json"}) {
    for (const char* text : {"", "{", "[]", "1", R"({"a":1,"a":2})"}) {
      put(file, text);
      EXPECT_NE(open_refusal(ErrorKind::kBadFile).find(std::string(file) + ": "),
                std::string::npos);
    }
    put(file, "{}");
  }
  put("model.safetensors", "junk");
  EXPECT_NE(open_refusal(ErrorKind::kBadFile).find("model.safetensors: "), std::string::npos);
}

}  // namespace
}  // namespace tutti::formats
