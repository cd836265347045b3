#include "models/gguf_config.h"

#include <cmath>

#include "base/error.h"
#include "formats/shown.h"
#include "models/rope.h"

namespace tutti::models {
namespace {

using formats::Gguf;
using formats::GgufArray;
using formats::GgufType;
using formats::GgufValue;

// "sdar" and "llada2-moe" are ours: llama.cpp's converter has no block-causal model.
constexpr const char* kArchitectures[] = {"llama",     "mistral", "qwen2",     "qwen3", "qwen2moe",
                                          "qwen3moe",  "gemma2",  "gemma3",    "llada", "dream",
                                          "llada-moe", "sdar",    "llada2-moe"};

// The keys of one architecture, "llama.block_count" and so on.
class Keys {
 public:
  Keys(const Gguf& gguf, std::string architecture)
      : gguf_(gguf), architecture_(std::move(architecture)) {}

  std::string full(const char* key) const { return architecture_ + "." + key; }

  std::optional<int> integer_if(const char* key) const {
    const std::string name = full(key);
    const GgufValue* value = gguf_.find(name);
    if (!value) return std::nullopt;
    // Some keys may hold a value per layer; we run models where all layers agree.
    if (value->type == GgufType::kArray) {
      const auto values = gguf_.integers(name);
      if (values->empty()) return std::nullopt;
      for (const int64_t v : *values) {
        if (v != values->front()) unsupported(name, "differs between layers");
      }
      return fit(name, values->front());
    }
    return fit(name, *gguf_.integer(name));
  }
  int integer(const char* key) const {
    if (const auto value = integer_if(key)) return *value;
    missing(key);
  }
  int integer_or(const char* key, int fallback) const { return integer_if(key).value_or(fallback); }
  std::optional<double> number_if(const char* key) const { return gguf_.number(full(key)); }
  double number_or(const char* key, double fallback) const {
    return number_if(key).value_or(fallback);
  }
  double number(const char* key) const {
    if (const auto value = number_if(key)) return *value;
    missing(key);
  }
  std::optional<bool> boolean_if(const char* key) const { return gguf_.boolean(full(key)); }
  std::optional<std::string> string_if(const char* key) const { return gguf_.string(full(key)); }
  const GgufValue* find(const char* key) const { return gguf_.find(full(key)); }
  const std::string& place() const { return gguf_.name(); }

  [[noreturn]] void unsupported(const std::string& name, const std::string& what) const {
    throw Error(ErrorKind::kUnsupported, gguf_.name() + ": metadata \"" + name + "\" " + what +
                                             ", which no network here computes; use another model");
  }

 private:
  [[noreturn]] void missing(const char* key) const {
    throw Error(ErrorKind::kBadFile, gguf_.name() + ": metadata \"" + full(key) +
                                         "\" is missing; the model is incomplete, export it again");
  }
  int fit(const std::string& name, int64_t value) const {
    if (value >= 0 && value <= INT32_MAX) return int(value);
    throw Error(ErrorKind::kBadFile, gguf_.name() + ": metadata \"" + name + "\" is " +
                                         std::to_string(value) +
                                         ", out of range; fix or replace the model file");
  }

  const Gguf& gguf_;
  std::string architecture_;
};

std::string architecture_of(const Gguf& gguf) {
  const auto name = gguf.string("general.architecture");
  if (!name) {
    throw Error(ErrorKind::kBadFile,
                gguf.name() +
                    ": metadata \"general.architecture\" is missing; the file is no "
                    "language model");
  }
  std::string all;
  for (const char* known : kArchitectures) {
    if (*name == known) return *name;
    all += (all.empty() ? "" : ", ") + std::string(known);
  }
  const bool latent =
      name->starts_with("deepseek2") || gguf.find(name->substr(0, 80) + ".attention.kv_lora_rank");
  throw Error(ErrorKind::kUnsupported, gguf.name() + ": architecture " + formats::shown(*name) +
                                           (latent ? " (latent attention)" : "") +
                                           " is not known; known are " + all);
}

bool is_gemma(const std::string& architecture) { return architecture.starts_with("gemma"); }

RopeScaling rope_scaling(const Keys& keys, int context_length) {
  RopeScaling scaling;
  const auto type = keys.string_if("rope.scaling.type");
  auto factor = keys.number_if("rope.scaling.factor");
  if (!factor) factor = keys.number_if("rope.scale_linear");
  scaling.kind = type ? rope_scaling_kind(*type, keys.place())
                      : (factor ? RopeScaling::kLinear : RopeScaling::kNone);
  // A factor of 0 stands for "not set".
  scaling.factor = factor && *factor != 0 ? *factor : 1.0;
  scaling.original_context =
      keys.integer_or("rope.scaling.original_context_length", context_length);
  if (scaling.kind != RopeScaling::kYarn) return scaling;
  if (keys.number_or("rope.scaling.yarn_ext_factor", 1.0) != 1.0) {
    keys.unsupported(keys.full("rope.scaling.yarn_ext_factor"), "is not 1");
  }
  scaling.beta_fast = keys.number_or("rope.scaling.yarn_beta_fast", 32.0);
  scaling.beta_slow = keys.number_or("rope.scaling.yarn_beta_slow", 1.0);
  scaling.attention_factor = keys.number_if("rope.scaling.yarn_attn_factor");
  if (const double multiplier = keys.number_or("rope.scaling.yarn_log_multiplier", 0.0);
      multiplier != 0) {
    scaling.mscale = 1.0;
    scaling.mscale_all_dim = multiplier;
  }
  return scaling;
}

RopeParameters full_rope(const Keys& keys, const Config& config) {
  RopeParameters p;
  p.dims = keys.integer_or("rope.dimension_count", config.head_dim);
  p.base = keys.number_or("rope.freq_base", 10000.0);
  p.context_length = config.context_length;
  p.scaling = rope_scaling(keys, config.context_length);
  if (p.dims > config.head_dim) {
    throw Error(ErrorKind::kBadFile, keys.place() + ": metadata \"" +
                                         keys.full("rope.dimension_count") +
                                         "\" is larger than a head; fix or replace the model file");
  }
  return p;
}

void read_rope(const Keys& keys, const Gguf& gguf, Config& config) {
  RopeParameters p = full_rope(keys, config);
  config.rope = make_rope(p, gguf.name());
  config.rope.magnitude *= float(keys.number_or("rope.scaling.attn_factor", 1.0));
  if (config.sliding.empty()) return;
  if (config.architecture == "gemma3") {
    // Local layers have their own base and are never scaled; older files have no key for it.
    RopeParameters local;
    local.dims = p.dims;
    local.base = keys.number_or("rope.freq_base_swa", 10000.0);
    local.context_length = p.context_length;
    config.sliding_rope = make_rope(local, gguf.name());
  } else if (const auto base = keys.number_if("rope.freq_base_swa")) {
    p.base = *base;
    config.sliding_rope = make_rope(p, gguf.name());
  }
}

// Which layers slide: a flag per layer, or the length n of a pattern whose last layer is full.
void read_sliding(const Keys& keys, Config& config) {
  config.window =
      keys.integer_or("attention.sliding_window", config.architecture == "gemma2" ? 4096 : 0);
  if (config.window == 0) return;
  int period = config.architecture == "gemma2" ? 2 : config.architecture == "gemma3" ? 6 : 0;
  const GgufValue* pattern = keys.find("attention.sliding_window_pattern");
  config.sliding.resize(size_t(config.layers));
  if (pattern && pattern->type == GgufType::kArray) {
    const GgufArray& flags = *std::get<std::shared_ptr<GgufArray>>(pattern->value);
    const std::string name = keys.full("attention.sliding_window_pattern");
    if (flags.size() != size_t(config.layers))
      keys.unsupported(name, "does not hold one flag per layer");
    for (size_t l = 0; l < config.sliding.size(); ++l) {
      const GgufValue flag = flags.at(l);
      if (const auto* b = std::get_if<bool>(&flag.value)) {
        config.sliding[l] = *b;
      } else if (const auto* u = std::get_if<uint64_t>(&flag.value)) {
        config.sliding[l] = *u != 0;
      } else if (const auto* i = std::get_if<int64_t>(&flag.value)) {
        config.sliding[l] = *i != 0;
      } else {
        keys.unsupported(name, "does not hold flags");
      }
    }
  } else {
    period = keys.integer_or("attention.sliding_window_pattern", period);
    for (int l = 0; l < config.layers; ++l)
      config.sliding[size_t(l)] = period == 0 || l % period != period - 1;
  }
  bool any = false;
  for (const bool slides : config.sliding) any = any || slides;
  if (!any) {
    config.sliding.clear();
    config.window = 0;
  }
}

// How the router's products become scores, and of which experts the best are taken.
void read_router(const Keys& keys, Config& config) {
  constexpr int kSoftmax = 1, kSigmoid = 2;  // llama.cpp's numbers; 0: none given
  const bool groups = config.architecture == "llada2-moe";
  const int function = keys.integer_or("expert_gating_func", groups ? kSigmoid : kSoftmax);
  if (function > (groups ? kSigmoid : kSoftmax) || (groups && function == kSoftmax)) {
    keys.unsupported(keys.full("expert_gating_func"), groups ? "is not sigmoid" : "is not softmax");
  }
  if (!groups) {
    if (keys.integer_or("expert_group_count", 1) > 1)
      keys.unsupported(keys.full("expert_group_count"), "is above 1");
    return;
  }
  config.experts.score = Experts::Score::kSigmoid;
  config.experts.groups = keys.integer_or("expert_group_count", 1);
  config.experts.used_groups = keys.integer_or("expert_group_used_count", 1);
}

void read_experts(const Keys& keys, Config& config) {
  Experts& e = config.experts;
  e.count = keys.integer_or("expert_count", 0);
  const bool qwen = config.architecture.starts_with("qwen") && config.architecture.ends_with("moe");
  if (e.count == 0) {
    if (qwen) keys.unsupported(keys.full("expert_count"), "is 0");
    return;
  }
  read_router(keys, config);
  e.used = keys.integer("expert_used_count");
  const int derived = qwen && e.used > 0 ? config.intermediate / e.used : config.intermediate;
  e.intermediate = keys.integer_or("expert_feed_forward_length", derived);
  if (config.architecture == "qwen2moe") {
    e.shared_intermediate =
        keys.integer_or("expert_shared_feed_forward_length", config.intermediate);
  } else if (config.architecture == "llada2-moe") {
    e.shared_intermediate = keys.integer_or("expert_shared_feed_forward_length", 0);
  }
  // Softmax over all experts, then the top ones divided by their sum, is Mixtral's softmax over the
  // top ones.
  e.normalise =
      keys.boolean_if("expert_weights_norm")
          .value_or(config.architecture != "qwen2moe" && config.architecture != "llada-moe");
  if (const double scale = keys.number_or("expert_weights_scale", 1.0); scale != 0)
    e.scale = float(scale);
  if (const int dense = keys.integer_or("leading_dense_block_count", 0); dense > 0) {
    config.sparse.resize(size_t(config.layers));
    for (int l = 0; l < config.layers; ++l) config.sparse[size_t(l)] = l >= dense;
  }
}

// What a masked model sees and predicts; the keys are those of llama.cpp's converter.
void read_masked(const Keys& keys, const Gguf& gguf, Config& config) {
  const std::string& a = config.architecture;
  if (!a.starts_with("llada") && a != "dream" && a != "sdar") return;
  if (keys.boolean_if("attention.causal").value_or(false)) {
    keys.unsupported(keys.full("attention.causal"), "is true");
  }
  const bool blocks = a == "sdar" || a == "llada2-moe";
  config.attention = blocks ? AttentionKind::kBlockCausal : AttentionKind::kBidirectional;
  if (blocks)
    config.attention_block = keys.integer_or("diffusion.block_size", a == "sdar" ? 4 : 32);
  config.shifted_logits = gguf.boolean("diffusion.shift_logits").value_or(a == "dream");
  if (const auto mask = gguf.integer("tokenizer.ggml.mask_token_id")) {
    config.mask_token = *mask >= 0 && *mask < config.vocab ? int(*mask) : -1;
  }
}

// What a draft model trained here says by keys of ours, others by the shape of their embeddings.
void read_vocabulary(const Keys& keys, const Gguf& gguf, Config& config) {
  config.embedding_width = keys.integer_or("draft.embedding_width", 0);
  if (config.embedding_width > 0) {
    config.vocab = keys.integer("vocab_size");
  } else {
    const formats::GgufTensor& embedding = gguf.tensor("token_embd.weight");
    config.vocab =
        embedding.dims.size() == 2 && embedding.dims[1] <= INT32_MAX ? int(embedding.dims[1]) : 0;
  }
  const std::string name = keys.full("draft.head_tokens");
  for (const int64_t token : gguf.integers(name).value_or(std::vector<int64_t>())) {
    if (token < 0 || token > INT32_MAX) keys.unsupported(name, "holds something else than tokens");
    config.head_tokens.push_back(int32_t(token));
  }
}

}  // namespace

Config gguf_config(const Gguf& gguf) {
  Config config;
  config.architecture = architecture_of(gguf);
  config.name = gguf.string("general.name").value_or("");
  const Keys keys(gguf, config.architecture);
  config.hidden = keys.integer("embedding_length");
  config.layers = keys.integer("block_count");
  config.heads = keys.integer("attention.head_count");
  config.kv_heads = keys.integer_or("attention.head_count_kv", config.heads);
  config.intermediate = keys.integer_or("feed_forward_length", 0);
  config.context_length = keys.integer("context_length");
  config.norm_eps = float(keys.number("attention.layer_norm_rms_epsilon"));
  config.head_dim =
      keys.integer_or("attention.key_length", config.heads > 0 ? config.hidden / config.heads : 0);
  if (keys.integer_or("attention.value_length", config.head_dim) != config.head_dim) {
    keys.unsupported(keys.full("attention.value_length"), "differs from the key length");
  }
  read_vocabulary(keys, gguf, config);
  config.tied_head = !gguf.find_tensor("output.weight");
  // Sizes that later arithmetic relies on; the rest is checked at the end.
  if (config.layers < 1 || config.layers > 4096 || config.heads < 1 || config.head_dim < 1 ||
      config.head_dim > 4096) {
    check_config(config, gguf.name());
  }

  for (const char* key : {"residual_scale", "logit_scale", "embedding_scale"}) {
    if (keys.number_or(key, 1.0) != 1.0) keys.unsupported(keys.full(key), "is not 1");
  }
  config.attention_scale = float(1.0 / std::sqrt(double(config.head_dim)));
  if (is_gemma(config.architecture)) {
    config.activation = tensor::Activation::kGeluTanh;
    config.embedding_scale = std::sqrt(float(config.hidden));
    // The files do not state the scale; only the 27B models have another one than their head's.
    const bool is_27b = config.layers == (config.architecture == "gemma2" ? 46 : 62);
    if (is_27b)
      config.attention_scale = float(1.0 / std::sqrt(double(config.hidden / config.heads)));
  }
  if (config.architecture == "gemma2") {
    config.attention_cap = float(keys.number_or("attn_logit_softcapping", 50.0));
    config.logit_cap = float(keys.number_or("final_logit_softcapping", 30.0));
  } else {
    config.attention_cap = float(keys.number_or("attn_logit_softcapping", 0.0));
    config.logit_cap = float(keys.number_or("final_logit_softcapping", 0.0));
  }
  if (const double scale = keys.number_or("attention.scale", 0.0); scale != 0)
    config.attention_scale = float(scale);
  read_sliding(keys, config);
  read_rope(keys, gguf, config);
  read_experts(keys, config);
  read_masked(keys, gguf, config);
  check_config(config, gguf.name());
  return config;
}

RopeParameters gguf_rope(const Gguf& gguf, const Config& config) {
  return full_rope(Keys(gguf, architecture_of(gguf)), config);
}

}  // namespace tutti::models
