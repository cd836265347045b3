#include "convert/folder_metadata.h"

#include <cmath>

#include "base/error.h"
#include "models/gguf_config.h"
#include "models/hf_config.h"
#include "models/rope.h"

namespace tutti::convert {
namespace {

using formats::GgufValue;
using models::Config;
using models::RopeScaling;

class Keys {
 public:
  Keys(std::string architecture, formats::GgufMetadata& metadata)
      : architecture_(std::move(architecture)), metadata_(metadata) {}
  void integer(const char* key, int value) { put(key, GgufValue::u32(uint32_t(value))); }
  void number(const char* key, double value) { put(key, GgufValue::f32(float(value))); }
  void boolean(const char* key, bool value) { put(key, GgufValue::boolean(value)); }
  void string(const char* key, std::string value) { put(key, GgufValue::string(std::move(value))); }
  void put(const char* key, GgufValue value) {
    metadata_.emplace_back(architecture_ + "." + key, std::move(value));
  }

 private:
  std::string architecture_;
  formats::GgufMetadata& metadata_;
};

// Frequency factors of Llama-3.1's scaling: what the plain frequencies are divided by.
std::vector<float> factors_of(const models::RopeParameters& p, const models::Rope& scaled,
                              const std::string& place) {
  models::RopeParameters unscaled = p;
  unscaled.scaling = {};
  const models::Rope plain = models::make_rope(unscaled, place);
  std::vector<float> factors;
  for (size_t i = 0; i < scaled.inverse_frequency.size(); ++i) {
    const float from = plain.inverse_frequency[i], to = scaled.inverse_frequency[i];
    // The quotient, or a neighbour of it by which the division gives the very frequency.
    float best = from / to;
    for (const float next : {std::nextafterf(best, 0.0f), std::nextafterf(best, HUGE_VALF)}) {
      if (std::fabs(from / next - to) < std::fabs(from / best - to)) best = next;
    }
    factors.push_back(best);
  }
  return factors;
}

void put_rope(Keys& keys, const Config& c, const models::HfRopes& ropes, const std::string& place) {
  const models::RopeParameters& p = ropes.full;
  const RopeScaling& s = p.scaling;
  keys.integer("rope.dimension_count", p.dims);
  double base = p.base;
  if (s.kind == RopeScaling::kDynamic) {
    // One base for the model's stated length, as make_rope takes it; then nothing is left to scale.
    const double length = std::max(p.context_length, s.original_context);
    const double stretch = s.factor * length / s.original_context - (s.factor - 1);
    base *= std::pow(stretch, double(p.dims) / (p.dims - 2));
  }
  keys.number("rope.freq_base", base);
  if (s.kind == RopeScaling::kLinear || s.kind == RopeScaling::kYarn) {
    keys.string("rope.scaling.type", s.kind == RopeScaling::kLinear ? "linear" : "yarn");
    keys.number("rope.scaling.factor", s.factor);
  }
  if (s.kind == RopeScaling::kYarn) {
    keys.integer("rope.scaling.original_context_length", s.original_context);
    if (s.beta_fast != 32.0) keys.number("rope.scaling.yarn_beta_fast", s.beta_fast);
    if (s.beta_slow != 1.0) keys.number("rope.scaling.yarn_beta_slow", s.beta_slow);
    if (s.attention_factor || s.mscale || s.mscale_all_dim) {
      keys.number("rope.scaling.yarn_attn_factor", double(models::make_rope(p, place).magnitude));
    }
  }
  if (ropes.sliding) keys.number("rope.freq_base_swa", ropes.sliding->base);
  if (c.window > 0) keys.integer("attention.sliding_window", c.window);
}

// The pattern that a reader assumes need not be written.
void put_sliding(Keys& keys, const Config& c) {
  if (c.sliding.empty()) return;
  const int period = c.architecture == "gemma2" ? 2 : c.architecture == "gemma3" ? 6 : 0;
  formats::GgufArray flags;
  flags.element = formats::GgufType::kBool;
  bool assumed = true;
  for (int l = 0; l < c.layers; ++l) {
    const bool slides = c.sliding[size_t(l)];
    flags.packed.push_back(std::byte(slides));
    assumed = assumed && slides == (period == 0 || l % period != period - 1);
  }
  if (!assumed) keys.put("attention.sliding_window_pattern", GgufValue::array(std::move(flags)));
}

void put_experts(Keys& keys, const Config& c, const std::string& architecture) {
  const models::Experts& e = c.experts;
  if (e.count == 0) return;
  keys.integer("expert_count", e.count);
  keys.integer("expert_used_count", e.used);
  if (architecture != "llama") keys.integer("expert_feed_forward_length", e.intermediate);
  if (e.shared_intermediate > 0)
    keys.integer("expert_shared_feed_forward_length", e.shared_intermediate);
  // What a reader assumes need not be written.
  const bool usual = architecture != "qwen2moe" && architecture != "llada-moe";
  if (e.normalise != usual) keys.boolean("expert_weights_norm", e.normalise);
  if (e.scale != 1.0f) keys.number("expert_weights_scale", double(e.scale));
  if (e.score == models::Experts::Score::kSigmoid) keys.integer("expert_gating_func", 2);
  if (e.groups > 1) {
    keys.integer("expert_group_count", e.groups);
    keys.integer("expert_group_used_count", e.used_groups);
  }
  int dense = 0;
  while (dense < c.layers && !c.is_sparse(dense)) ++dense;
  if (dense > 0) keys.integer("leading_dense_block_count", dense);
}

// The mask token is the tokenizer's to name.
void put_masked(Keys& keys, const Config& c, formats::GgufMetadata& metadata) {
  if (c.attention == models::AttentionKind::kCausal) return;
  keys.boolean("attention.causal", false);
  if (c.attention == models::AttentionKind::kBlockCausal)
    keys.integer("diffusion.block_size", c.attention_block);
  metadata.emplace_back("diffusion.shift_logits", GgufValue::boolean(c.shifted_logits));
}

bool near(float a, float b) { return a == b || std::fabs(a - b) <= 1e-6f * std::fabs(b); }

bool near(const models::Rope& a, const models::Rope& b) {
  bool same =
      a.inverse_frequency.size() == b.inverse_frequency.size() && near(a.magnitude, b.magnitude);
  for (size_t i = 0; same && i < a.inverse_frequency.size(); ++i) {
    same = near(a.inverse_frequency[i], b.inverse_frequency[i]);
  }
  return same;
}

// What the keys describe differently from the folder; empty: nothing.
std::string difference(const Config& a, const Config& b) {
  if (a.hidden != b.hidden || a.layers != b.layers || a.heads != b.heads ||
      a.kv_heads != b.kv_heads || a.head_dim != b.head_dim || a.intermediate != b.intermediate ||
      a.vocab != b.vocab || a.context_length != b.context_length || a.tied_head != b.tied_head ||
      !near(a.norm_eps, b.norm_eps)) {
    return "the sizes";
  }
  if (a.activation != b.activation) return "the activation of the feed-forward";
  if (a.attention != b.attention || a.attention_block != b.attention_block ||
      a.shifted_logits != b.shifted_logits) {
    return "what a masked token sees";
  }
  if (a.embedding_width != b.embedding_width || a.head_tokens != b.head_tokens)
    return "what a draft model takes from its target";
  if (!near(a.embedding_scale, b.embedding_scale)) return "the scale of the embedding";
  if (!near(a.attention_scale, b.attention_scale)) return "the scale of attention scores";
  if (!near(a.attention_cap, b.attention_cap)) return "the cap of attention scores";
  if (!near(a.logit_cap, b.logit_cap)) return "the cap of logits";
  for (int l = 0; l < a.layers; ++l) {
    if (a.is_sliding(l) != b.is_sliding(l)) return "which layers have a sliding window";
    if (a.is_sparse(l) != b.is_sparse(l)) return "which layers have experts";
    if (!near(a.rope_of(l), b.rope_of(l))) return "the rotary embedding";
  }
  if (a.window != b.window) return "the sliding window";
  const models::Experts &e = a.experts, &f = b.experts;
  if (e.count != f.count || e.used != f.used || e.intermediate != f.intermediate ||
      e.shared_intermediate != f.shared_intermediate || e.normalise != f.normalise ||
      e.scale != f.scale || e.score != f.score || e.bias_weighs != f.bias_weighs ||
      e.groups != f.groups || e.used_groups != f.used_groups) {
    return "the experts";
  }
  return "";
}

// The configuration that a reader gets from the keys. It looks at two tensors besides, whose
// stand-ins are one element wide.
Config read_back(const FolderMetadata& folder, const Config& c, const std::string& place) {
  const std::vector<std::byte> zeros(size_t(c.vocab) * sizeof(float));
  std::vector<formats::GgufTensor> tensors(c.tied_head ? 1 : 2);
  tensors[0].name = "token_embd.weight";
  tensors[0].dims = {1, uint64_t(c.vocab)};
  tensors[0].data = zeros;
  if (!c.tied_head) {
    tensors[1].name = "output.weight";
    tensors[1].dims = {1};
    tensors[1].data = std::span(zeros).first(sizeof(float));
  }
  std::vector<std::byte> bytes;
  formats::write_gguf([&](auto more) { bytes.insert(bytes.end(), more.begin(), more.end()); },
                      place, folder.metadata, tensors);
  Config config = models::gguf_config(formats::Gguf::parse(bytes, place));
  if (!folder.rope_factors.empty())
    models::divide_frequencies(config.rope, folder.rope_factors, place);
  return config;
}

}  // namespace

FolderMetadata folder_metadata(const models::Checkpoint& checkpoint) {
  const Config& c = checkpoint.config();
  const formats::ModelFolder& source = *checkpoint.folder();
  const std::string place = (source.path() / "config.json").string();
  const models::HfRopes ropes = models::hf_ropes(source.config(), place, c);

  FolderMetadata folder;
  folder.architecture =
      c.architecture == "mistral" || c.architecture == "mixtral" ? "llama" : c.architecture;
  auto name = source.path().filename();
  if (name.empty()) name = source.path().parent_path().filename();  // "model/"
  folder.metadata.emplace_back("general.architecture", GgufValue::string(folder.architecture));
  folder.metadata.emplace_back("general.type", GgufValue::string("model"));
  folder.metadata.emplace_back("general.name", GgufValue::string(name.string()));
  Keys keys(folder.architecture, folder.metadata);
  keys.integer("block_count", c.layers);
  keys.integer("context_length", c.context_length);
  keys.integer("embedding_length", c.hidden);
  keys.integer("feed_forward_length", c.intermediate);
  keys.integer("attention.head_count", c.heads);
  keys.integer("attention.head_count_kv", c.kv_heads);
  keys.integer("attention.key_length", c.head_dim);
  keys.integer("attention.value_length", c.head_dim);
  keys.number("attention.layer_norm_rms_epsilon", double(c.norm_eps));
  keys.integer("vocab_size", c.vocab);
  put_rope(keys, c, ropes, place);
  put_sliding(keys, c);
  put_experts(keys, c, folder.architecture);
  put_masked(keys, c, folder.metadata);
  if (c.embedding_width > 0) keys.integer("draft.embedding_width", c.embedding_width);
  if (!c.head_tokens.empty()) keys.put("draft.head_tokens", GgufValue::i32s(c.head_tokens));
  if (const auto usual = float(1.0 / std::sqrt(double(c.head_dim))); c.attention_scale != usual) {
    keys.number("attention.scale", double(c.attention_scale));
  }
  if (c.architecture == "gemma2" || c.attention_cap != 0)
    keys.number("attn_logit_softcapping", double(c.attention_cap));
  if (c.architecture == "gemma2" || c.logit_cap != 0)
    keys.number("final_logit_softcapping", double(c.logit_cap));
  if (ropes.full.scaling.kind == RopeScaling::kLlama3) {
    folder.rope_factors = factors_of(ropes.full, c.rope, place);
  }
  if (const std::string what = difference(read_back(folder, c, place), c); !what.empty()) {
    throw Error(ErrorKind::kUnsupported, place + ": a GGUF file of the architecture " +
                                             folder.architecture + " cannot say " + what +
                                             " of this model; run the folder as it is");
  }
  return folder;
}

}  // namespace tutti::convert
