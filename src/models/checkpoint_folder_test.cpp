// Checkpoints from Hugging Face folders that the tests write themselves. Agreement with
// transformers' own tiny checkpoints, logits included, is tests/conformance's.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/files.h"
#include "base/half.h"
#include "formats/safetensors.h"
#include "models/checkpoint.h"

namespace tutti::models {
namespace {

using formats::Dtype;
using nlohmann::json;
namespace fs = std::filesystem;

// A folder in the making; names as transformers saves them.
class Draft {
 public:
  json config;

  std::vector<float> add(const std::string& name, std::vector<uint64_t> shape,
                         Dtype dtype = Dtype::kF32) {
    uint64_t n = 1;
    for (const uint64_t d : shape) n *= d;
    std::vector<float> values(n);
    // Eighths are exact in every type.
    for (float& v : values) v = float(int(random_() % 17) - 8) / 8;
    set(name, std::move(shape), values, dtype);
    return values;
  }
  void set(const std::string& name, std::vector<uint64_t> shape, const std::vector<float>& values,
           Dtype dtype) {
    std::vector<std::byte> bytes(values.size() * formats::info(dtype).bytes);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto put = [&](auto x) { std::memcpy(bytes.data() + i * sizeof x, &x, sizeof x); };
      if (dtype == Dtype::kF32) put(values[i]);
      if (dtype == Dtype::kF64) put(double(values[i]));
      if (dtype == Dtype::kF16) put(float_to_half(values[i]));
      if (dtype == Dtype::kBF16) put(float_to_bfloat16(values[i]));
    }
    tensors_[name] = {std::move(shape), dtype, std::move(bytes)};
  }
  void remove(const std::string& name) { tensors_.erase(name); }

  Checkpoint load() const {
    const fs::path folder =
        fs::path(testing::TempDir()) /
        ("tutti_checkpoint_" + std::to_string(getpid()) + "_" + std::to_string(++written_));
    fs::create_directories(folder);
    write_file_atomically(folder / "config.json", config.dump());
    std::vector<formats::SafetensorsTensor> list;
    for (const auto& [name, t] : tensors_) list.push_back({name, t.dtype, t.shape, t.bytes});
    formats::write_safetensors(folder / "model.safetensors", list);
    struct Remove {
      fs::path path;
      ~Remove() { fs::remove_all(path); }  // the map stays readable
    } remove{folder};
    return Checkpoint::open(folder);
  }

 private:
  struct Tensor {
    std::vector<uint64_t> shape;
    Dtype dtype;
    std::vector<std::byte> bytes;
  };
  std::map<std::string, Tensor> tensors_;
  std::mt19937 random_{11};
  mutable int written_ = 0;
};

constexpr uint64_t kHidden = 64, kHeads = 4, kKvHeads = 2, kHeadDim = 32, kWide = 96, kVocab = 40,
                   kExperts = 4;

struct Kind {
  const char* network;
  const char* model_type;
  const char* architecture;
  bool qkv_bias = false, qk_norm = false, gemma = false, mixtral = false, moe = false,
       shared = false;
};
const Kind kLlama{"LlamaForCausalLM", "llama", "llama"};
const Kind kMistral{"MistralForCausalLM", "mistral", "mistral"};
const Kind kMixtral{.network = "MixtralForCausalLM",
                    .model_type = "mixtral",
                    .architecture = "mixtral",
                    .mixtral = true};
const Kind kQwen2{.network = "Qwen2ForCausalLM",
                  .model_type = "qwen2",
                  .architecture = "qwen2",
                  .qkv_bias = true};
const Kind kQwen3{
    .network = "Qwen3ForCausalLM", .model_type = "qwen3", .architecture = "qwen3", .qk_norm = true};
const Kind kQwen2Moe{.network = "Qwen2MoeForCausalLM",
                     .model_type = "qwen2_moe",
                     .architecture = "qwen2moe",
                     .qkv_bias = true,
                     .moe = true,
                     .shared = true};
const Kind kQwen3Moe{.network = "Qwen3MoeForCausalLM",
                     .model_type = "qwen3_moe",
                     .architecture = "qwen3moe",
                     .qk_norm = true,
                     .moe = true};
const Kind kGemma2{.network = "Gemma2ForCausalLM",
                   .model_type = "gemma2",
                   .architecture = "gemma2",
                   .gemma = true};
const Kind kGemma3{.network = "Gemma3ForCausalLM",
                   .model_type = "gemma3_text",
                   .architecture = "gemma3",
                   .qk_norm = true,
                   .gemma = true};
const Kind kKinds[] = {kLlama,    kMistral,  kMixtral, kQwen2, kQwen3,
                       kQwen2Moe, kQwen3Moe, kGemma2,  kGemma3};

Draft draft(const Kind& kind, int layers = 2) {
  Draft d;
  d.config = {{"architectures", {kind.network}},
              {"model_type", kind.model_type},
              {"hidden_size", kHidden},
              {"num_hidden_layers", layers},
              {"num_attention_heads", kHeads},
              {"num_key_value_heads", kKvHeads},
              {"head_dim", kHeadDim},
              {"intermediate_size", kWide},
              {"vocab_size", kVocab},
              {"max_position_embeddings", 256},
              {"rms_norm_eps", 1e-6},
              {"rope_theta", 10000.0}};
  if (kind.mixtral) d.config.update({{"num_local_experts", kExperts}, {"num_experts_per_tok", 2}});
  if (kind.moe)
    d.config.update(
        {{"num_experts", kExperts}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 32}});
  if (kind.shared) d.config["shared_expert_intermediate_size"] = 48;
  if (kind.gemma)
    d.config.update({{"hidden_activation", "gelu_pytorch_tanh"}, {"query_pre_attn_scalar", 64}});
  d.add("model.embed_tokens.weight", {kVocab, kHidden});
  d.add("model.norm.weight", {kHidden});
  if (!kind.gemma) d.add("lm_head.weight", {kVocab, kHidden});
  for (int l = 0; l < layers; ++l) {
    const std::string at = "model.layers." + std::to_string(l) + ".";
    d.add(at + "input_layernorm.weight", {kHidden});
    d.add(at + "post_attention_layernorm.weight", {kHidden});
    if (kind.gemma) d.add(at + "pre_feedforward_layernorm.weight", {kHidden});
    if (kind.gemma) d.add(at + "post_feedforward_layernorm.weight", {kHidden});
    d.add(at + "self_attn.q_proj.weight", {kHeads * kHeadDim, kHidden});
    d.add(at + "self_attn.k_proj.weight", {kKvHeads * kHeadDim, kHidden});
    d.add(at + "self_attn.v_proj.weight", {kKvHeads * kHeadDim, kHidden});
    d.add(at + "self_attn.o_proj.weight", {kHidden, kHeads * kHeadDim});
    if (kind.qkv_bias) d.add(at + "self_attn.q_proj.bias", {kHeads * kHeadDim});
    if (kind.qkv_bias) d.add(at + "self_attn.k_proj.bias", {kKvHeads * kHeadDim});
    if (kind.qkv_bias) d.add(at + "self_attn.v_proj.bias", {kKvHeads * kHeadDim});
    if (kind.qk_norm) d.add(at + "self_attn.q_norm.weight", {kHeadDim});
    if (kind.qk_norm) d.add(at + "self_attn.k_norm.weight", {kHeadDim});
    if (kind.mixtral) d.add(at + "block_sparse_moe.gate.weight", {kExperts, kHidden});
    if (kind.moe) d.add(at + "mlp.gate.weight", {kExperts, kHidden});
    for (uint64_t e = 0; e < kExperts; ++e) {
      const std::string one = "experts." + std::to_string(e) + ".";
      if (kind.mixtral) d.add(at + "block_sparse_moe." + one + "w1.weight", {kWide, kHidden});
      if (kind.mixtral) d.add(at + "block_sparse_moe." + one + "w2.weight", {kHidden, kWide});
      if (kind.mixtral) d.add(at + "block_sparse_moe." + one + "w3.weight", {kWide, kHidden});
      if (kind.moe) d.add(at + "mlp." + one + "gate_proj.weight", {32, kHidden});
      if (kind.moe) d.add(at + "mlp." + one + "up_proj.weight", {32, kHidden});
      if (kind.moe) d.add(at + "mlp." + one + "down_proj.weight", {kHidden, 32});
    }
    if (kind.shared) {
      d.add(at + "mlp.shared_expert.gate_proj.weight", {48, kHidden});
      d.add(at + "mlp.shared_expert.up_proj.weight", {48, kHidden});
      d.add(at + "mlp.shared_expert.down_proj.weight", {kHidden, 48});
      d.add(at + "mlp.shared_expert_gate.weight", {1, kHidden});
    }
    if (!kind.mixtral && !kind.moe) {
      d.add(at + "mlp.gate_proj.weight", {kWide, kHidden});
      d.add(at + "mlp.up_proj.weight", {kWide, kHidden});
      d.add(at + "mlp.down_proj.weight", {kHidden, kWide});
    }
  }
  return d;
}

struct Thrown {
  std::string message;
  ErrorKind kind = ErrorKind::kUsage;
  bool names(const std::string& text) const { return message.find(text) != std::string::npos; }
};
Thrown load_error(const Draft& d) {
  try {
    d.load();
  } catch (const Error& e) {
    return {e.what(), e.kind()};
  }
  return {};
}

TEST(CheckpointFolder, LoadsEveryArchitecture) {
  for (const Kind& kind : kKinds) {
    const Checkpoint checkpoint = draft(kind).load();
    const Config& c = checkpoint.config();
    EXPECT_EQ(c.architecture, kind.architecture);
    EXPECT_EQ(c.tied_head, kind.gemma) << c.architecture;
    EXPECT_EQ(c.vocab, int(kVocab));
    EXPECT_EQ(c.head_dim, int(kHeadDim));
    EXPECT_FLOAT_EQ(c.attention_scale, kind.gemma ? 0.125f : float(1 / std::sqrt(32.0)))
        << c.architecture;
    EXPECT_EQ(c.embedding_scale, kind.gemma ? 8.0f : 1.0f);
    EXPECT_EQ(c.activation, kind.gemma ? tensor::Activation::kGeluTanh : tensor::Activation::kSilu);
    EXPECT_EQ(c.experts.count, kind.moe || kind.mixtral ? int(kExperts) : 0);
    EXPECT_EQ(c.experts.normalise, kind.mixtral);
    const auto& l = checkpoint.weights().layers[1];
    EXPECT_EQ(l.q.bias.empty(), !kind.qkv_bias) << c.architecture;
    EXPECT_EQ(l.q_norm.empty(), !kind.qk_norm) << c.architecture;
    EXPECT_EQ(l.post_attn_norm.empty(), !kind.gemma) << c.architecture;
    EXPECT_EQ(l.expert_down.size(), size_t(c.experts.count));
    EXPECT_EQ(l.shared_router.empty(), !kind.shared);
    EXPECT_NE(checkpoint.folder(), nullptr);
  }
}

TEST(CheckpointFolder, PutsTensorsWhereTheyBelong) {
  Draft d = draft(kMixtral);
  const auto w1 = d.add("model.layers.1.block_sparse_moe.experts.2.w1.weight", {kWide, kHidden});
  const auto w2 = d.add("model.layers.1.block_sparse_moe.experts.2.w2.weight", {kHidden, kWide});
  const auto w3 = d.add("model.layers.1.block_sparse_moe.experts.2.w3.weight", {kWide, kHidden});
  const auto q = d.add("model.layers.0.self_attn.q_proj.weight", {kHeads * kHeadDim, kHidden});
  const Checkpoint checkpoint = d.load();
  const auto& layers = checkpoint.weights().layers;
  EXPECT_EQ(layers[1].expert_gate[2].floats(), w1);
  EXPECT_EQ(layers[1].expert_down[2].floats(), w2);
  EXPECT_EQ(layers[1].expert_up[2].floats(), w3);
  EXPECT_EQ(layers[0].q.weight.floats(), q);  // half-split already
}

TEST(CheckpointFolder, GemmaNormsAreOneMoreThanStored) {
  Draft d = draft(kGemma3);
  const std::string at = "model.layers.0.";
  const auto input = d.add(at + "input_layernorm.weight", {kHidden}, Dtype::kBF16);
  const auto post = d.add(at + "post_attention_layernorm.weight", {kHidden});
  const auto pre_ff = d.add(at + "pre_feedforward_layernorm.weight", {kHidden});
  const auto post_ff = d.add(at + "post_feedforward_layernorm.weight", {kHidden});
  const auto q_norm = d.add(at + "self_attn.q_norm.weight", {kHeadDim});
  const auto last = d.add("model.norm.weight", {kHidden});
  const Checkpoint checkpoint = d.load();
  const auto& l = checkpoint.weights().layers[0];
  const auto plus_one = [](std::vector<float> v) {
    for (float& x : v) x += 1.0f;
    return v;
  };
  EXPECT_EQ(l.attn_norm.floats(), plus_one(input));
  EXPECT_EQ(l.post_attn_norm.floats(), plus_one(post));
  EXPECT_EQ(l.ffn_norm.floats(), plus_one(pre_ff));
  EXPECT_EQ(l.post_ffn_norm.floats(), plus_one(post_ff));
  EXPECT_EQ(l.q_norm.floats(), plus_one(q_norm));
  EXPECT_EQ(checkpoint.weights().output_norm.floats(), plus_one(last));
  // Others store what they multiply by.
  Draft llama = draft(kLlama);
  const auto norm = llama.add("model.norm.weight", {kHidden});
  EXPECT_EQ(llama.load().weights().output_norm.floats(), norm);
}

TEST(CheckpointFolder, ReadsStackedExperts) {
  Draft d = draft(kQwen3Moe, 1);
  const std::string at = "model.layers.0.mlp.experts";
  for (uint64_t e = 0; e < kExperts; ++e) {
    for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
      d.remove(at + "." + std::to_string(e) + "." + part + ".weight");
    }
  }
  const auto both = d.add(at + ".gate_up_proj", {kExperts, 64, kHidden});
  const auto down = d.add(at + ".down_proj", {kExperts, kHidden, 32});
  const Checkpoint checkpoint = d.load();
  const auto& l = checkpoint.weights().layers[0];
  const size_t half = 32 * kHidden;
  for (size_t e = 0; e < kExperts; ++e) {
    const auto from = [&](const std::vector<float>& v, size_t first) {
      return std::vector<float>(v.begin() + long(first), v.begin() + long(first + half));
    };
    EXPECT_EQ(l.expert_gate[e].floats(), from(both, 2 * e * half));
    EXPECT_EQ(l.expert_up[e].floats(), from(both, (2 * e + 1) * half));
    EXPECT_EQ(l.expert_down[e].floats(), from(down, e * half));
  }
}

TEST(CheckpointFolder, ReadsTheElementTypes) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kF64}) {
    Draft d = draft(kLlama);
    const auto up = d.add("model.layers.1.mlp.up_proj.weight", {kWide, kHidden}, dtype);
    const Checkpoint checkpoint = d.load();
    EXPECT_EQ(checkpoint.weights().layers[1].up.weight.floats(), up);
  }
  Draft d = draft(kLlama);
  d.add("model.layers.1.mlp.up_proj.weight", {kWide, kHidden}, Dtype::kF8E4M3);
  EXPECT_TRUE(load_error(d).names("\"model.layers.1.mlp.up_proj.weight\" holds F8_E4M3"));
  EXPECT_EQ(load_error(d).kind, ErrorKind::kUnsupported);
}

TEST(CheckpointFolder, OldAndNewRotaryKeysAgree) {
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 64}};
  Draft old_keys = draft(kLlama), new_keys = draft(kLlama);
  old_keys.config["rope_theta"] = 500000.0;
  old_keys.config["rope_scaling"] = llama3;
  new_keys.config.erase("rope_theta");
  new_keys.config["rope_parameters"] = llama3;
  new_keys.config["rope_parameters"]["rope_theta"] = 500000.0;
  const auto a = old_keys.load().config().rope.inverse_frequency;
  EXPECT_EQ(a, new_keys.load().config().rope.inverse_frequency);
  EXPECT_NEAR(a[15], std::pow(5e5, -30.0 / 32) / 8, 1e-10);

  // Gemma-3: a base for each kind of layer, scaling for full layers only.
  old_keys = draft(kGemma3);
  new_keys = draft(kGemma3);
  old_keys.config.update({{"rope_theta", 1e6}, {"rope_local_base_freq", 5000.0}});
  old_keys.config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  new_keys.config.erase("rope_theta");
  new_keys.config["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1e6}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 5000.0}}}};
  const Checkpoint old_model = old_keys.load(), new_model = new_keys.load();
  EXPECT_EQ(old_model.config().rope.inverse_frequency, new_model.config().rope.inverse_frequency);
  EXPECT_EQ(old_model.config().sliding_rope.inverse_frequency,
            new_model.config().sliding_rope.inverse_frequency);
  EXPECT_EQ(new_model.config().rope.inverse_frequency[0], 0.125f);
  EXPECT_EQ(new_model.config().sliding_rope.inverse_frequency[0], 1.0f);

  // In one file both: the old one wins, and so does a trained length beside it.
  Draft both = draft(kLlama);
  both.config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  EXPECT_EQ(both.load().config().rope.inverse_frequency[0], 0.25f);
  both.config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  EXPECT_EQ(both.load().config().rope.inverse_frequency[0], 0.5f);
  both.config["rope_scaling"] = {{"rope_type", "yarn"}, {"original_max_position_embeddings", 1}};
  both.config["original_max_position_embeddings"] = 64;  // factor 256 / 64
  EXPECT_FLOAT_EQ(both.load().config().rope.magnitude, float(0.1 * std::log(4.0) + 1));

  // The oldest spelling: "type".
  old_keys = draft(kLlama);
  old_keys.config["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_EQ(old_keys.load().config().rope.inverse_frequency[0], 0.5f);
  old_keys.config["rope_scaling"] = {{"type", "longrope"}, {"factor", 2.0}};
  EXPECT_TRUE(load_error(old_keys).names("longrope"));
  old_keys.config["rope_scaling"] = {{"type", "linear"}};
  EXPECT_TRUE(load_error(old_keys).names("\"factor\""));
  old_keys = draft(kLlama);
  old_keys.config["partial_rotary_factor"] = 0.5;
  EXPECT_EQ(old_keys.load().config().rope.inverse_frequency.size(), kHeadDim / 4);
}

TEST(CheckpointFolder, ReadsSlidingWindows) {
  const auto sliding = [](Draft d, const json& keys) {
    d.config.update(keys);
    return d.load().config().sliding;
  };
  using Flags = std::vector<bool>;
  EXPECT_EQ(sliding(draft(kLlama), {{"sliding_window", 8}}), Flags());
  EXPECT_EQ(sliding(draft(kMistral), {{"sliding_window", 8}}), Flags({true, true}));
  EXPECT_EQ(sliding(draft(kMistral), {{"sliding_window", nullptr}}), Flags());
  EXPECT_EQ(sliding(draft(kMixtral), {{"sliding_window", 8}}), Flags({true, true}));
  const json qwen = {{"sliding_window", 8}, {"use_sliding_window", true}, {"max_window_layers", 1}};
  EXPECT_EQ(sliding(draft(kQwen2), {{"sliding_window", 8}, {"use_sliding_window", false}}),
            Flags());
  EXPECT_EQ(sliding(draft(kQwen2), qwen), Flags({false, true}));
  EXPECT_EQ(sliding(draft(kQwen3), qwen), Flags({false, true}));
  EXPECT_EQ(sliding(draft(kQwen3Moe), qwen), Flags({true, true}));
  EXPECT_EQ(sliding(draft(kQwen2Moe), qwen), Flags({true, false}));
  json typed = qwen;
  typed["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(sliding(draft(kQwen2), typed), Flags({true, false}));
  EXPECT_EQ(sliding(draft(kGemma2), json::object()), Flags({true, false}));
  EXPECT_EQ(sliding(draft(kGemma3, 6), {{"sliding_window", 8}}),
            Flags({true, true, true, true, true, false}));
  EXPECT_EQ(sliding(draft(kGemma3, 3), {{"sliding_window", 8}, {"sliding_window_pattern", 2}}),
            Flags({true, false, true}));
  typed = {{"sliding_window", 8}, {"layer_types", {"full_attention", "sliding_attention"}}};
  EXPECT_EQ(sliding(draft(kGemma3), typed), Flags({false, true}));
  Draft d = draft(kGemma3);
  d.config["layer_types"] = {"chunked_attention", "full_attention"};
  EXPECT_TRUE(load_error(d).names("chunked_attention"));
}

TEST(CheckpointFolder, ReadsWhichLayersAreSparse) {
  Draft d = draft(kQwen3Moe);
  d.config["mlp_only_layers"] = {0};
  d.config["norm_topk_prob"] = true;
  EXPECT_TRUE(load_error(d).names("\"model.layers.0.mlp.gate_proj.weight\" is missing"));
  for (uint64_t e = 0; e < kExperts; ++e) {
    for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
      d.remove("model.layers.0.mlp.experts." + std::to_string(e) + "." + part + ".weight");
    }
  }
  d.remove("model.layers.0.mlp.gate.weight");
  d.add("model.layers.0.mlp.gate_proj.weight", {kWide, kHidden});
  d.add("model.layers.0.mlp.up_proj.weight", {kWide, kHidden});
  d.add("model.layers.0.mlp.down_proj.weight", {kHidden, kWide});
  EXPECT_FALSE(d.load().config().is_sparse(0));
  EXPECT_TRUE(d.load().config().is_sparse(1));
  EXPECT_TRUE(d.load().config().experts.normalise);
  // decoder_sparse_step 2 says the same of two layers.
  d.config.erase("mlp_only_layers");
  d.config["decoder_sparse_step"] = 2;
  EXPECT_FALSE(d.load().config().is_sparse(0));
  EXPECT_TRUE(d.load().config().is_sparse(1));
}

TEST(CheckpointFolder, NamesTensorsThatDoNotFit) {
  Draft d = draft(kQwen2);
  d.remove("model.layers.1.self_attn.k_proj.bias");
  EXPECT_TRUE(load_error(d).names("\"model.layers.1.self_attn.k_proj.bias\" is missing"));
  d = draft(kLlama);
  d.add("model.layers.0.self_attn.q_proj.bias", {kHeads * kHeadDim});
  EXPECT_TRUE(load_error(d).names("self_attn.q_proj.bias"));
  d.config["attention_bias"] = true;
  EXPECT_TRUE(load_error(d).names("k_proj.bias\" is missing"));
  d = draft(kLlama);
  d.add("model.layers.0.mlp.down_proj.weight", {kWide, kHidden});
  EXPECT_TRUE(load_error(d).names("has shape [96, 64]"));
  d = draft(kLlama);
  d.remove("lm_head.weight");
  EXPECT_TRUE(load_error(d).names("\"lm_head.weight\" is missing"));
  d.config["tie_word_embeddings"] = true;
  EXPECT_TRUE(d.load().weights().head.empty());
  d.add("lm_head.weight", {kVocab, kHidden});  // a copy of the embedding, as some folders have it
  EXPECT_TRUE(d.load().weights().head.empty());
  d = draft(kLlama);
  d.add("model.layers.0.self_attn.rotary_emb.inv_freq", {16});
  EXPECT_EQ(load_error(d).message, "");
  d.add("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", {16, kHidden});
  EXPECT_TRUE(load_error(d).names("latent attention"));
}

TEST(CheckpointFolder, NamesWhatItCannotRun) {
  Draft d = draft(kLlama);
  d.config["architectures"] = {"FalconForCausalLM"};
  EXPECT_TRUE(load_error(d).names("\"FalconForCausalLM\"") &&
              load_error(d).names("Qwen3MoeForCausalLM"));
  EXPECT_EQ(load_error(d).kind, ErrorKind::kUnsupported);
  d.config["architectures"] = {"DeepseekV2ForCausalLM"};
  d.config["kv_lora_rank"] = 512;
  EXPECT_TRUE(load_error(d).names("latent attention"));
  d = draft(kLlama);
  d.config.erase("architectures");  // model_type alone says it, too
  EXPECT_EQ(load_error(d).message, "");
  d.config["quantization_config"] = {{"quant_method", "bitsandbytes"}};
  EXPECT_TRUE(load_error(d).names("\"bitsandbytes\""));
  EXPECT_EQ(load_error(d).kind, ErrorKind::kUnsupported);
  d = draft(kLlama);
  d.config["hidden_act"] = "xielu";
  EXPECT_TRUE(load_error(d).names("xielu"));
  d = draft(kGemma3);
  d.config.erase("hidden_activation");  // the default of the family; "hidden_act" is not read
  d.config["hidden_act"] = "gelu";
  EXPECT_EQ(d.load().config().activation, tensor::Activation::kGeluTanh);
  d.config["use_bidirectional_attention"] = true;
  EXPECT_TRUE(load_error(d).names("use_bidirectional_attention"));
}

TEST(CheckpointFolder, RefusesHostileConfigurations) {
  const std::vector<std::pair<const char*, json>> bad = {
      {"hidden_size", 0},
      {"hidden_size", -64},
      {"hidden_size", 1e30},
      {"hidden_size", "wide"},
      {"hidden_size", nullptr},
      {"num_hidden_layers", 0},
      {"num_hidden_layers", 3},
      {"num_hidden_layers", 2000000000},
      {"num_attention_heads", 0},
      {"num_key_value_heads", 3},
      {"num_key_value_heads", 0},
      {"head_dim", 0},
      {"head_dim", 2000000000},
      {"intermediate_size", 1.5},
      {"max_position_embeddings", 0},
      {"rms_norm_eps", 0},
      {"rms_norm_eps", nullptr},
      {"rope_theta", -1},
      {"rope_scaling", "linear"},
      {"partial_rotary_factor", 2},
      {"partial_rotary_factor", 0.01},
      {"tie_word_embeddings", "yes"},
      {"architectures", "LlamaForCausalLM"},
      {"architectures", json::array()},
  };
  for (const auto& [key, value] : bad) {
    Draft d = draft(kLlama);
    d.config[key] = value;
    const Thrown e = load_error(d);
    EXPECT_EQ(e.kind, ErrorKind::kBadFile) << key << " " << value << ": " << e.message;
  }
  Draft d = draft(kLlama);
  d.config["head_dim"] = 24;
  EXPECT_EQ(load_error(d).kind, ErrorKind::kUnsupported);
  d = draft(kQwen3Moe);
  d.config["mlp_only_layers"] = {5};
  EXPECT_TRUE(load_error(d).names("mlp_only_layers"));
}

}  // namespace
}  // namespace tutti::models
