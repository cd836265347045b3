#include "models/hf_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/shown.h"
#include "models/rope.h"

namespace tutti::models {
namespace {

using nlohmann::json;

struct Family {
  const char* network;       // as "architectures" names it
  const char* model_type;    // as "model_type" does
  const char* architecture;  // as Config does
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", "llama"},
    {"MistralForCausalLM", "mistral", "mistral"},
    {"MixtralForCausalLM", "mixtral", "mixtral"},
    {"Qwen2ForCausalLM", "qwen2", "qwen2"},
    {"Qwen3ForCausalLM", "qwen3", "qwen3"},
    {"Qwen2MoeForCausalLM", "qwen2_moe", "qwen2moe"},
    {"Qwen3MoeForCausalLM", "qwen3_moe", "qwen3moe"},
    {"Gemma2ForCausalLM", "gemma2", "gemma2"},
    {"Gemma3ForCausalLM", "gemma3_text", "gemma3"},
    {"LLaDAModelLM", "llada", "llada"},
    {"DreamModel", "Dream", "dream"},
    {"SDARForCausalLM", "sdar", "sdar"},
};

// LLaDA's own names of keys that the other families share.
constexpr std::pair<std::string_view, const char*> kLladaNames[] = {
    {"hidden_size", "d_model"},
    {"num_hidden_layers", "n_layers"},
    {"num_attention_heads", "n_heads"},
    {"num_key_value_heads", "n_kv_heads"},
    {"intermediate_size", "mlp_hidden_size"},
    {"max_position_embeddings", "max_sequence_length"},
    {"tie_word_embeddings", "weight_tying"},
    {"hidden_act", "activation_type"},
};

// An object of the file, its keys read with their types and ranges checked. A null counts as
// absent.
class Keys {
 public:
  Keys(const json& object, std::string place) : object_(object), place_(std::move(place)) {}

  const std::string& place() const { return place_; }
  // Keys are asked for by their common names; this file has LLaDA's.
  void use_llada_names() { llada_ = true; }
  const json* find(const char* key) const {
    if (!object_.is_object()) return nullptr;
    const auto it = object_.find(written(key));
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  bool empty() const { return object_.empty(); }
  // Present, and explicitly nothing.
  bool is_null(const char* key) const {
    return object_.is_object() && object_.contains(key) && object_.at(key).is_null();
  }
  std::optional<double> number_if(const char* key) const {
    const json* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_number()) bad(key, "is no number");
    return value->get<double>();
  }
  double number_or(const char* key, double fallback) const {
    return number_if(key).value_or(fallback);
  }
  double number(const char* key) const {
    const auto value = number_if(key);
    if (!value) bad(key, "is missing");
    return *value;
  }
  std::optional<int> integer_if(const char* key) const {
    const auto value = number_if(key);
    if (!value) return std::nullopt;
    if (!(*value >= 0 && *value <= INT32_MAX) || *value != std::floor(*value))
      bad(key, "is out of range");
    return int(*value);
  }
  int integer_or(const char* key, int fallback) const { return integer_if(key).value_or(fallback); }
  int integer(const char* key) const {
    const auto value = integer_if(key);
    if (!value) bad(key, "is missing");
    return *value;
  }
  bool boolean_or(const char* key, bool fallback) const {
    const json* value = find(key);
    if (!value) return fallback;
    if (!value->is_boolean()) bad(key, "is neither true nor false");
    return value->get<bool>();
  }
  std::optional<std::string> string_if(const char* key) const {
    const json* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_string()) bad(key, "is no text");
    return value->get<std::string>();
  }
  // An object under `key`; without one, an empty object.
  Keys object(const char* key) const {
    static const json kEmpty = json::object();
    const json* value = find(key);
    if (!value) return {kEmpty, place_};
    if (!value->is_object()) bad(key, "is no object");
    return {*value, place_};
  }

  [[noreturn]] void bad(const std::string& key, const std::string& what) const {
    throw Error(ErrorKind::kBadFile, place_ + ": key \"" + written(key) + "\" " + what +
                                         "; fix the file or fetch it again");
  }
  [[noreturn]] void unsupported(const std::string& key, const std::string& what) const {
    throw Error(ErrorKind::kUnsupported, place_ + ": key \"" + written(key) + "\" " + what +
                                             ", which no network here computes; use another model");
  }

 private:
  std::string written(const std::string& key) const {
    if (!llada_) return key;
    for (const auto& [common, own] : kLladaNames) {
      if (key == common) return own;
    }
    return key;
  }

  const json& object_;
  std::string place_;
  bool llada_ = false;
};

const Family& family_of(const Keys& keys) {
  std::string name;
  if (const json* list = keys.find("architectures")) {
    if (!list->is_array() || list->empty() || !list->front().is_string())
      keys.bad("architectures", "is no list of names");
    name = list->front().get<std::string>();
  }
  const std::string type = keys.string_if("model_type").value_or("");
  for (const Family& family : kFamilies) {
    if (name.empty() ? type == family.model_type : name == family.network) return family;
  }
  std::string known;
  for (const Family& family : kFamilies)
    known += (known.empty() ? "" : ", ") + std::string(family.network);
  const bool latent = keys.find("kv_lora_rank") != nullptr;
  throw Error(ErrorKind::kUnsupported,
              keys.place() + ": architecture " + formats::shown(name.empty() ? type : name) +
                  (latent ? " (latent attention)" : "") + " is not known; known are " + known);
}

bool is_gemma(const Config& c) { return c.architecture.starts_with("gemma"); }

// Made from Qwen models, whose keys they keep.
bool is_qwen(const std::string& architecture) {
  return architecture.starts_with("qwen") || architecture == "dream" || architecture == "sdar";
}

tensor::Activation activation(const Keys& keys, const Config& config) {
  // Gemma reads its own key only: old files say "gelu" in the other where the network has the tanh
  // form.
  const char* key = is_gemma(config) ? "hidden_activation" : "hidden_act";
  const auto name = keys.string_if(key);
  if (!name && is_gemma(config)) return tensor::Activation::kGeluTanh;
  if (!name || *name == "silu" || *name == "swish") return tensor::Activation::kSilu;
  if (*name == "gelu_pytorch_tanh" || *name == "gelu_new" || *name == "gelu_fast")
    return tensor::Activation::kGeluTanh;
  if (*name == "gelu") return tensor::Activation::kGelu;
  if (*name == "relu") return tensor::Activation::kRelu;
  keys.unsupported(key, "is " + formats::shown(*name));
}

// `rope` holds rope_type (old: type) and its numbers; `base` is used unless it says rope_theta.
RopeParameters read_rope(const Keys& keys, const Keys& rope, double base, const Config& config) {
  RopeParameters p;
  const double partial =
      rope.number_or("partial_rotary_factor", keys.number_or("partial_rotary_factor", 1.0));
  if (!(partial > 0 && partial <= 1)) keys.bad("partial_rotary_factor", "is not between 0 and 1");
  p.dims = int(config.head_dim * partial);
  p.base = rope.number_or("rope_theta", base);
  p.context_length = config.context_length;
  auto type = rope.string_if("rope_type");
  if (!type) type = rope.string_if("type");
  RopeScaling& s = p.scaling;
  s.kind = rope_scaling_kind(type.value_or("default"), keys.place());
  s.original_context = rope.integer_or("original_max_position_embeddings", config.context_length);
  if (s.kind == RopeScaling::kLlama3 || s.kind == RopeScaling::kYarn) {
    // A length beside the rotary keys wins over the one among them, as in transformers.
    s.original_context = keys.integer_or("original_max_position_embeddings", s.original_context);
  }
  if (s.kind == RopeScaling::kLlama3) {
    s.low_freq_factor = rope.number("low_freq_factor");
    s.high_freq_factor = rope.number("high_freq_factor");
  }
  if (s.kind == RopeScaling::kYarn) {
    s.attention_factor = rope.number_if("attention_factor");
    s.mscale = rope.number_if("mscale");
    s.mscale_all_dim = rope.number_if("mscale_all_dim");
    s.beta_fast = rope.number_or("beta_fast", 32.0);
    s.beta_slow = rope.number_or("beta_slow", 1.0);
    s.truncate = rope.boolean_or("truncate", true);
    // A missing factor is the ratio of the two lengths.
    const double ratio =
        s.original_context > 0 ? double(config.context_length) / s.original_context : 0.0;
    s.factor = rope.number_or("factor", ratio);
  } else if (s.kind != RopeScaling::kNone) {
    s.factor = rope.number("factor");
  }
  return p;
}

HfRopes read_ropes(const Keys& keys, const Config& config) {
  HfRopes ropes;
  const double base =
      config.architecture == "mixtral" || config.architecture == "gemma3" ? 1e6 : 1e4;
  const Keys parameters = keys.object("rope_parameters");
  const double stated_base = keys.number_or("rope_theta", base);
  if (config.architecture != "gemma3") {
    // Per-layer-type parameters: every family but Gemma-3 has the same for all.
    const char* nested = parameters.find("full_attention") ? "full_attention" : nullptr;
    // Both spellings in one file: the old one wins, as in transformers.
    const Keys old = keys.object("rope_scaling");
    const Keys rope = old.empty() ? (nested ? parameters.object(nested) : parameters) : old;
    ropes.full = read_rope(keys, rope, stated_base, config);
    if (nested && !config.sliding.empty() && parameters.find("sliding_attention")) {
      ropes.sliding = read_rope(keys, parameters.object("sliding_attention"), stated_base, config);
    }
    return ropes;
  }
  const bool nested = parameters.find("full_attention") || parameters.find("sliding_attention");
  ropes.full =
      read_rope(keys, nested ? parameters.object("full_attention") : keys.object("rope_scaling"),
                stated_base, config);
  // Local layers are never scaled unless they say so themselves.
  ropes.sliding = read_rope(keys, parameters.object("sliding_attention"),
                            keys.number_or("rope_local_base_freq", 1e4), config);
  return ropes;
}

// The layer types that the file lists, or nothing.
bool read_layer_types(const Keys& keys, Config& config) {
  const json* types = keys.find("layer_types");
  if (!types) return false;
  if (!types->is_array() || types->size() != size_t(config.layers))
    keys.bad("layer_types", "is no list of one type per layer");
  for (const json& type : *types) {
    if (type == "sliding_attention") {
      config.sliding.push_back(true);
    } else if (type == "full_attention") {
      config.sliding.push_back(false);
    } else {
      keys.unsupported("layer_types",
                       "has the type " + formats::shown(type.is_string() ? type.get<std::string>()
                                                                         : type.dump()));
    }
  }
  return true;
}

void read_sliding(const Keys& keys, Config& config) {
  const std::string& a = config.architecture;
  if (a == "llama" || a == "llada") return;
  const bool qwen = is_qwen(a);
  if (qwen && !keys.boolean_or("use_sliding_window", false)) return;
  config.window = keys.integer_or("sliding_window", is_gemma(config) || qwen ? 4096 : 0);
  if (config.window == 0) return;
  const auto fill = [&](const auto& slides) {
    for (int l = 0; l < config.layers; ++l) config.sliding.push_back(slides(l));
  };
  if (a == "mistral" || a == "mixtral" || a == "qwen3moe") {
    fill([](int) { return true; });
  } else if (!read_layer_types(keys, config)) {
    if (is_gemma(config)) {
      int period = keys.integer_or("_sliding_window_pattern", a == "gemma2" ? 2 : 6);
      period = keys.integer_or("sliding_window_pattern", period);
      if (period < 1) keys.bad("sliding_window_pattern", "is not positive");
      fill([&](int l) { return (l + 1) % period != 0; });
    } else {
      const int first = keys.integer_or("max_window_layers", 28);
      // The two Qwen families read the same key in opposite ways.
      fill([&](int l) { return a == "qwen2moe" ? (l + 1) % 2 != 0 && l < first : l >= first; });
    }
  }
  bool any = false;
  for (const bool slides : config.sliding) any = any || slides;
  if (any) return;
  config.sliding.clear();
  config.window = 0;
}

void read_experts(const Keys& keys, Config& config) {
  const std::string& a = config.architecture;
  Experts& e = config.experts;
  if (a == "mixtral") {
    e.count = keys.integer("num_local_experts");
    e.used = keys.integer("num_experts_per_tok");
    e.intermediate = config.intermediate;
    e.normalise = true;
    return;
  }
  if (a != "qwen2moe" && a != "qwen3moe") return;
  e.count = keys.integer_or("num_experts", keys.integer_or("num_local_experts", 0));
  if (e.count == 0) keys.bad("num_experts", "is missing");
  e.used = keys.integer("num_experts_per_tok");
  e.intermediate = keys.integer("moe_intermediate_size");
  e.normalise = keys.boolean_or("norm_topk_prob", false);
  if (a == "qwen2moe") e.shared_intermediate = keys.integer("shared_expert_intermediate_size");
  const int step = keys.integer_or("decoder_sparse_step", 1);
  if (step < 1) keys.bad("decoder_sparse_step", "is not positive");
  for (int l = 0; l < config.layers; ++l) config.sparse.push_back((l + 1) % step == 0);
  if (const json* dense = keys.find("mlp_only_layers")) {
    if (!dense->is_array()) keys.bad("mlp_only_layers", "is no list of layers");
    for (const json& layer : *dense) {
      const bool fits = layer.is_number_integer() && layer.get<int64_t>() >= 0 &&
                        layer.get<int64_t>() < config.layers;
      if (!fits) keys.bad("mlp_only_layers", "names a layer that is not there");
      config.sparse[layer.get<size_t>()] = false;
    }
  }
}

void read_gemma(const Keys& keys, Config& config) {
  // transformers rounds the scale to the embedding's type: run in fp32, as here, it stays what it
  // is.
  config.embedding_scale = std::sqrt(float(config.hidden));
  config.attention_scale = float(1.0 / std::sqrt(keys.number_or("query_pre_attn_scalar", 256)));
  const bool gemma2 = config.architecture == "gemma2";
  config.attention_cap = float(keys.number_or("attn_logit_softcapping", gemma2 ? 50.0 : 0.0));
  config.logit_cap = float(keys.number_or("final_logit_softcapping", gemma2 ? 30.0 : 0.0));
  // An explicit null means that there is no cap.
  if (gemma2 && keys.is_null("attn_logit_softcapping")) config.attention_cap = 0.0f;
  if (gemma2 && keys.is_null("final_logit_softcapping")) config.logit_cap = 0.0f;
  if (keys.boolean_or("use_bidirectional_attention", false))
    keys.unsupported("use_bidirectional_attention", "is true");
}

// Parts of OLMo's network that LLaDA's checkpoints switch off.
void refuse_unknown_parts(const Keys& keys) {
  for (const char* key : {"attention_layer_norm", "include_bias", "include_qkv_bias",
                          "scale_logits", "input_emb_norm", "alibi", "multi_query_attention"}) {
    if (keys.boolean_or(key, false)) keys.unsupported(key, "is true");
  }
  for (const auto& [key, only] : {std::pair("layer_norm_type", "rms"), {"block_type", "llama"}}) {
    const std::string value = keys.string_if(key).value_or(only);
    if (value != only) keys.unsupported(key, "is " + formats::shown(value));
  }
  if (keys.integer_or("block_group_size", 1) != 1) keys.unsupported("block_group_size", "is not 1");
  if (!keys.boolean_or("rope", true)) keys.unsupported("rope", "is false");
}

// What a masked model sees and predicts.
void read_masked(const Keys& keys, Config& config) {
  const std::string& a = config.architecture;
  if (a != "llada" && a != "dream" && a != "sdar") return;
  if (a == "llada") refuse_unknown_parts(keys);
  config.attention = AttentionKind::kBidirectional;
  config.shifted_logits = a == "dream";
  config.mask_token = keys.integer_or("mask_token_id", -1);
  if (a != "sdar") return;
  config.attention = AttentionKind::kBlockCausal;
  config.attention_block = keys.integer_or("block_size", 4);
}

void read_layout(const Keys& keys, const Config& config, TensorLayout& layout) {
  layout = hf_layout(config.architecture);
  const auto when = [](bool condition) {
    return condition ? Presence::kRequired : Presence::kNever;
  };
  const std::string& a = config.architecture;
  if (a == "qwen2" || a == "dream") {
    layout.qkv_bias = Presence::kRequired;
  } else if (a == "qwen2moe") {
    layout.qkv_bias = when(keys.boolean_or("qkv_bias", true));
  } else if (a != "mistral" && a != "mixtral" && a != "llada") {
    layout.qkv_bias = layout.o_bias = when(keys.boolean_or("attention_bias", false));
  }
  if (a == "llama") layout.mlp_bias = when(keys.boolean_or("mlp_bias", false));
}

}  // namespace

Config hf_config(const json& object, const std::string& place, TensorLayout& layout) {
  Keys keys(object, place);
  const Family& family = family_of(keys);
  if (std::string_view(family.architecture) == "llada") keys.use_llada_names();
  if (keys.find("kv_lora_rank")) keys.unsupported("kv_lora_rank", "is latent attention (MLA)");

  Config config;
  config.architecture = family.architecture;
  config.name = keys.string_if("_name_or_path").value_or("");
  config.hidden = keys.integer("hidden_size");
  config.layers = keys.integer("num_hidden_layers");
  config.heads = keys.integer("num_attention_heads");
  config.kv_heads = keys.integer_or("num_key_value_heads", config.heads);
  config.intermediate = keys.integer("intermediate_size");
  config.vocab = keys.integer("vocab_size");
  config.context_length = keys.integer("max_position_embeddings");
  config.norm_eps = float(keys.number("rms_norm_eps"));
  const int derived = config.heads > 0 ? config.hidden / config.heads : 0;
  const bool fixed_head =
      config.architecture == "qwen3" || config.architecture == "sdar" || is_gemma(config);
  config.head_dim =
      keys.integer_or("head_dim", fixed_head ? (is_gemma(config) ? 256 : 128) : derived);
  config.activation = activation(keys, config);
  config.tied_head = keys.boolean_or("tie_word_embeddings", is_gemma(config));
  // Sizes that later arithmetic relies on; the rest is checked at the end.
  if (config.layers < 1 || config.layers > 4096 || config.head_dim < 1 || config.head_dim > 4096) {
    check_config(config, place);
  }
  config.attention_scale = float(1.0 / std::sqrt(double(config.head_dim)));
  if (is_gemma(config)) read_gemma(keys, config);
  read_sliding(keys, config);
  const HfRopes ropes = read_ropes(keys, config);
  config.rope = make_rope(ropes.full, place);
  if (ropes.sliding) config.sliding_rope = make_rope(*ropes.sliding, place);
  read_experts(keys, config);
  read_masked(keys, config);
  read_layout(keys, config, layout);
  check_config(config, place);
  return config;
}

HfRopes hf_ropes(const json& object, const std::string& place, const Config& config) {
  return read_ropes(Keys(object, place), config);
}

}  // namespace tutti::models
