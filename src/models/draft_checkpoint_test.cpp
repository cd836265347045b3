// Draft models that take embeddings from a target and whose heads have some tokens only, against
// the same network with embeddings and a whole head of its own.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/half.h"
#include "formats/json_text.h"
#include "models/crafted_checkpoint.h"
#include "models/head_tokens.h"
#include "models/hf_config.h"
#include "models/model.h"

namespace tutti::models {
namespace {

using formats::GgufValue;
using tensor::Type;

constexpr int kWidth = 48, kHidden = 64, kVocab = 40;
const std::vector<int32_t> kHead{0, 3, 4, 17, 38};

struct Twins {
  std::vector<float> table, map, embedding, head;
  Draft small, whole;  // the draft model; the same with all that it lacks
};

Twins twins() {
  Twins t;
  Draft values;
  t.table = values.add("table", {kWidth, kVocab});
  t.map = values.add("map", {kWidth, kHidden}, Type::kF32, 0, 0.2f);
  t.head = values.add("head", {kHidden, kVocab}, Type::kF32, 0, 0.3f);
  for (int token = 0; token < kVocab; ++token) {
    for (int i = 0; i < kHidden; ++i) {
      float sum = 0;  // ascending, as every product here
      for (int k = 0; k < kWidth; ++k)
        sum = std::fma(t.map[size_t(i * kWidth + k)], t.table[size_t(token * kWidth + k)], sum);
      t.embedding.push_back(half_to_float(float_to_half(sum)));
    }
  }
  t.whole = draft("llama");
  t.whole.set("token_embd.weight", {kHidden, kVocab}, t.embedding, Type::kF32);
  t.whole.set("output.weight", {kHidden, kVocab}, t.head, Type::kF32);
  t.small = t.whole;
  t.small.remove("token_embd.weight");
  t.small.set("token_embd_map.weight", {kWidth, kHidden}, t.map, Type::kF32);
  std::vector<float> rows;
  for (const int32_t token : kHead)
    rows.insert(rows.end(), t.head.begin() + token * kHidden,
                t.head.begin() + (token + 1) * kHidden);
  t.small.set("output.weight", {kHidden, kHead.size()}, rows, Type::kF32);
  t.small.keys["llama.vocab_size"] = GgufValue::u32(kVocab);
  t.small.keys["llama.draft.embedding_width"] = GgufValue::u32(kWidth);
  t.small.keys["llama.draft.head_tokens"] = GgufValue::i32s(kHead);
  return t;
}

StoredTensor stored(const std::vector<float>& table, int rows, int cols) {
  return {Type::kF32, rows, cols, std::as_bytes(std::span(table)), "table"};
}

// Logits of every token of one prompt, [tokens][vocab].
std::vector<std::vector<float>> logits(const Checkpoint& checkpoint, int threads) {
  ComputePool pool(threads);
  const Model model(std::make_shared<const Checkpoint>(checkpoint), tensor::Arithmetic::kExactF32,
                    pool);
  const std::vector<int32_t> prompt{3, 39, 0, 12, 25};
  Batch batch;
  Epoch epoch;
  epoch.last_layer = checkpoint.config().layers;
  for (int i = 0; i < int(prompt.size()); ++i) {
    RowInput in;
    in.token = prompt[size_t(i)];
    batch.inputs.push_back(in);
    batch.positions.emplace_back(i);
    batch.segments.push_back(0);
    batch.active.emplace_back();
    batch.slots.push_back({0, i});
    batch.runs.push_back({0, 0, uint8_t(i + 1), 0});
    epoch.rows.push_back(i);
    epoch.full.push_back({i, 1, i + 1});
    batch.head_rows.push_back(i);
  }
  batch.epochs.push_back(epoch);
  const tensor::KvLayout layout = model.kv_layout(tensor::KvType::kF32);
  tensor::AlignedBytes page(layout.page_bytes());
  std::byte* pages[] = {page.data()};
  RowWorkspace space;
  std::vector<std::vector<float>> out(prompt.size());
  model.forward(pool, batch, {layout, pages}, space, [&](int, int index, std::span<float> row) {
    std::vector<float>& all = out[size_t(index)];
    all.assign(row.begin(), row.end());
    if (const auto& tokens = checkpoint.config().head_tokens; !tokens.empty()) {
      ASSERT_EQ(row.size(), tokens.size());
      all.resize(size_t(kVocab));
      spread(tokens, row, all);
    }
  });
  return out;
}

TEST(DraftCheckpoint, LogitsAreThoseOfTheWholeNetwork) {
  const Twins t = twins();
  Checkpoint small = t.small.load();
  small.take_embeddings(stored(t.table, kVocab, kWidth));
  EXPECT_EQ(small.config().embedding_width, 0);
  const auto whole = logits(t.whole.load(), 1);
  for (const int threads : {1, 3}) {
    const auto some = logits(small, threads);
    ASSERT_EQ(some.size(), whole.size());
    for (size_t row = 0; row < whole.size(); ++row) {
      for (int32_t token = 0; token < kVocab; ++token) {
        const bool there = std::ranges::binary_search(kHead, token);
        EXPECT_EQ(some[row][size_t(token)], there ? whole[row][size_t(token)] : -INFINITY)
            << "row " << row << ", token " << token;
      }
    }
  }
}

std::string message(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(DraftCheckpoint, WithoutItsTargetItSaysWhatToDo) {
  const Twins t = twins();
  const auto small = std::make_shared<const Checkpoint>(t.small.load());
  ComputePool pool(1);
  EXPECT_NE(message([&] {
              Model(small, tensor::Arithmetic::kExactF32, pool);
            }).find("--draft-model beside"),
            std::string::npos);
}

TEST(DraftCheckpoint, RefusesTheEmbeddingsOfAnotherModel) {
  const Twins t = twins();
  Checkpoint small = t.small.load();
  const std::vector<float> other(size_t(kVocab) * 32);
  EXPECT_NE(message([&] {
              small.take_embeddings(stored(other, kVocab, 32));
            }).find("embeddings of 40 tokens, 48 wide, but the model's are 40, 32 wide"),
            std::string::npos);
  // One that has its own keeps them.
  Checkpoint whole = t.whole.load();
  whole.take_embeddings(stored(other, kVocab, 32));
  EXPECT_EQ(whole.weights().embedding.cols, kHidden);
}

TEST(DraftCheckpoint, RefusesHeadsThatAreNone) {
  const auto refused = [](const std::vector<int32_t>& tokens) {
    Draft d = twins().small;
    d.keys["llama.draft.head_tokens"] = GgufValue::i32s(tokens);
    return message([&] { d.load(); });
  };
  EXPECT_NE(refused({0, 3, 3, 17, 38}).find("do not ascend"), std::string::npos);
  EXPECT_NE(refused({0, 3, 4, 17, 40}).find("a token of the head"), std::string::npos);
  EXPECT_NE(refused({-1, 3, 4, 17, 38}), "");
  EXPECT_NE(refused({0, 3, 4, 17}).find("output.weight"), std::string::npos);
}

TEST(DraftCheckpoint, FoldersSayItInTheirConfiguration) {
  nlohmann::json config{{"architectures", {"LlamaForCausalLM"}},
                        {"hidden_size", 64},
                        {"num_hidden_layers", 2},
                        {"num_attention_heads", 4},
                        {"intermediate_size", 96},
                        {"vocab_size", 40},
                        {"max_position_embeddings", 256},
                        {"rms_norm_eps", 1e-5},
                        {"tie_word_embeddings", false},
                        {"draft_embedding_width", 48},
                        {"draft_head_tokens", kHead}};
  TensorLayout layout;
  const Config c = hf_config(config, "tiny", layout);
  EXPECT_EQ(c.embedding_width, 48);
  EXPECT_EQ(c.head_tokens, kHead);
  EXPECT_EQ(c.head_rows(), int(kHead.size()));
  EXPECT_EQ(layout.embedding, "model.embed_map.weight");
  config["draft_head_tokens"] = "all";
  EXPECT_NE(message([&] { hf_config(config, "tiny", layout); }).find("draft_head_tokens"),
            std::string::npos);
  config["draft_head_tokens"] = kHead;
  config["tie_word_embeddings"] = true;
  EXPECT_NE(message([&] { hf_config(config, "tiny", layout); }).find("tied"), std::string::npos);
}

}  // namespace
}  // namespace tutti::models
