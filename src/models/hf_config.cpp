#include "models/hf_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/shown.h"
#include "models/bert_folder.h"
#include "models/hf_keys.h"
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
    // Folders say "llada", too; where there is no network named, that is the one without experts.
    {"LLaDAMoEModelLM", "lladamoe", "llada-moe"},
    {"LLaDA2MoeModelLM", "llada2_moe", "llada2-moe"},
    {"DreamModel", "Dream", "dream"},
    {"DimpleModel", "dimple", "dimple"},
    {"SDARForCausalLM", "sdar", "sdar"},
    {"XLNetLMHeadModel", "xlnet", "xlnet"},
    {"BertModel", "bert", "bert"},
    {"BertForSequenceClassification", "bert", "bert"},
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
constexpr std::pair<std::string_view, const char*> kLladaMoeNames[] = {
    {"intermediate_size", "dense_intermediate_size"},
    {"moe_intermediate_size", "expert_intermediate_size"},
};

using Keys = HfKeys;

constexpr std::pair<std::string_view, const char*> kXlnetNames[] = {
    {"hidden_size", "d_model"},         {"num_hidden_layers", "n_layer"},
    {"num_attention_heads", "n_head"},  {"head_dim", "d_head"},
    {"intermediate_size", "d_inner"},   {"hidden_act", "ff_activation"},
    {"rms_norm_eps", "layer_norm_eps"},
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
  return architecture.starts_with("qwen") || architecture == "dream" || architecture == "dimple" ||
         architecture == "sdar";
}

tensor::Activation activation(const Keys& keys, const Config& config) {
  // Gemma reads its own key only: old files say "gelu" in the other where the network has the tanh
  // form.
  const char* key = is_gemma(config) ? "hidden_activation" : "hidden_act";
  const auto name = keys.string_if(key);
  if (!name && is_gemma(config)) return tensor::Activation::kGeluTanh;
  return name ? named_activation(keys, key, *name) : tensor::Activation::kSilu;
}

// `rope` holds rope_type (old: type) and its numbers; `base` is used unless it says rope_theta.
RopeParameters read_rope(const Keys& keys, const Keys& rope, double base, const Config& config) {
  RopeParameters p;
  const double usual = config.architecture == "llada2-moe" ? 0.5 : 1.0;
  const double partial =
      rope.number_or("partial_rotary_factor", keys.number_or("partial_rotary_factor", usual));
  if (!(partial > 0 && partial <= 1)) keys.bad("partial_rotary_factor", "is not between 0 and 1");
  p.dims = int(config.head_dim * partial);
  p.base = rope.number_or("rope_theta", base);
  p.context_length = config.context_length;
  auto type = rope.string_if("rope_type");
  if (!type) type = rope.string_if("type");
  RopeScaling& s = p.scaling;
  // "mrope" names axes, not a scaling.
  if (config.architecture == "dimple" && type == "mrope") type = "default";
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
  if (a == "llama" || a.starts_with("llada")) return;
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

// What the published networks take for granted, whatever the file says.
void require(const Keys& keys, const char* key, const char* only) {
  const auto value = keys.string_if(key);
  if (value && *value != only) keys.unsupported(key, "is " + formats::shown(*value));
}

void read_llada_moe_experts(const Keys& keys, Config& config) {
  Experts& e = config.experts;
  e.count = keys.integer("num_experts");
  e.used = keys.integer("num_experts_per_tok");
  e.intermediate = keys.integer("moe_intermediate_size");
  e.shared_intermediate = keys.integer_or("shared_expert_intermediate_size", 0);
  e.bias_weighs = keys.boolean_or("moe_router_enable_expert_bias", false);
  require(keys, "moe_router_score_function", "softmax");
  if (keys.boolean_or("norm_topk_prob", false)) keys.unsupported("norm_topk_prob", "is true");
  if (keys.number_or("routed_scaling_factor", 1.0) != 1.0)
    keys.unsupported("routed_scaling_factor", "is not 1");
  if (keys.number_or("router_num_group", 0.0) > 1)
    keys.unsupported("router_num_group", "is above 1");
  const json* layers = keys.find("moe_layer_freq");
  if (!layers) return;
  if (!layers->is_array() || layers->size() != size_t(config.layers))
    keys.bad("moe_layer_freq", "is no list of one number per layer");
  for (const json& sparse : *layers) config.sparse.push_back(sparse != 0);
}

void read_llada2_experts(const Keys& keys, Config& config) {
  Experts& e = config.experts;
  e.score = Experts::Score::kSigmoid;
  e.count = keys.integer("num_experts");
  e.used = keys.integer("num_experts_per_tok");
  e.intermediate = keys.integer("moe_intermediate_size");
  const int64_t shared = int64_t(keys.integer_or("num_shared_experts", 0)) * e.intermediate;
  if (shared > INT32_MAX) keys.bad("num_shared_experts", "is out of range");
  e.shared_intermediate = int(shared);
  e.groups = keys.integer_or("n_group", 8);
  e.used_groups = keys.integer_or("topk_group", 4);
  e.normalise = e.used > 1;
  e.scale = float(keys.number_or("routed_scaling_factor", 2.5));
  require(keys, "score_function", "sigmoid");
  if (!keys.boolean_or("norm_topk_prob", true)) keys.unsupported("norm_topk_prob", "is false");
  const int dense = keys.integer_or("first_k_dense_replace", 0);
  for (int l = 0; l < config.layers; ++l) config.sparse.push_back(l >= dense);
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
  if (a == "llada-moe") return read_llada_moe_experts(keys, config);
  if (a == "llada2-moe") return read_llada2_experts(keys, config);
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

// Parts of the published code that no published LLaDA-MoE or LLaDA2 uses.
void refuse_unused_parts(const Keys& keys) {
  if (keys.find("clip_qkv")) keys.unsupported("clip_qkv", "is given");
  for (const char* key : {"norm_head", "use_sliding_window"}) {
    if (keys.boolean_or(key, false)) keys.unsupported(key, "is true");
  }
}

// Which of (t, h, w) turns each pair: mrope_section counts them, in that order (Qwen2-VL).
void read_axes(const Keys& keys, Config& config) {
  if (config.architecture != "dimple") return;
  const json* sections = keys.object("rope_scaling").find("mrope_section");
  if (!sections) sections = keys.find("mrope_section");
  static const json kUsual{16, 24, 24};
  if (!sections) sections = &kUsual;
  const auto refuse = [&] {
    keys.bad("mrope_section", "is no list of three numbers whose sum is half of head_dim");
  };
  if (!sections->is_array() || sections->size() != 3) refuse();
  std::vector<uint8_t>& axis = config.rope.axis;
  const size_t pairs = config.rope.inverse_frequency.size();
  for (uint8_t a = 0; a < 3; ++a) {
    const json& count = sections->at(a);
    if (!count.is_number_integer() || count < 0 || count > pairs) refuse();
    axis.insert(axis.end(), count.get<size_t>(), a);
  }
  if (axis.size() != pairs) refuse();
}

// What a masked model sees and predicts.
void read_masked(const Keys& keys, Config& config) {
  const std::string& a = config.architecture;
  const bool experts = a == "llada-moe" || a == "llada2-moe";
  const bool shifted = a == "dream" || a == "dimple";
  if (a != "llada" && !shifted && a != "sdar" && !experts) return;
  if (a == "llada") refuse_unknown_parts(keys);
  if (experts) refuse_unused_parts(keys);
  // Dimple's first two phases of training, and its autoregressive mode.
  if (a == "dimple" && !keys.boolean_or("full_attn_mask", true)) return;
  config.attention = AttentionKind::kBidirectional;
  config.shifted_logits = shifted;
  // The published folders with experts do not name their mask token: it is this one in all of them.
  constexpr int kUsualMask = 156895;
  config.mask_token =
      keys.integer_or("mask_token_id", experts && kUsualMask < config.vocab ? kUsualMask : -1);
  if (a != "sdar" && a != "llada2-moe") return;
  config.attention = AttentionKind::kBlockCausal;
  config.attention_block = keys.integer_or("block_size", a == "sdar" ? 4 : 32);
}

// A part that the file may switch on or off; without a word, what its tensors have.
Presence switched(const Keys& keys, const char* key) {
  if (!keys.find(key)) return Presence::kOptional;
  return keys.boolean_or(key, false) ? Presence::kRequired : Presence::kNever;
}

void read_layout(const Keys& keys, const Config& config, TensorLayout& layout) {
  layout = hf_layout(config.architecture);
  const auto when = [](bool condition) {
    return condition ? Presence::kRequired : Presence::kNever;
  };
  const std::string& a = config.architecture;
  if (a == "qwen2" || a == "dream" || a == "dimple") {
    layout.qkv_bias = Presence::kRequired;
  } else if (a == "qwen2moe") {
    layout.qkv_bias = when(keys.boolean_or("qkv_bias", true));
  } else if (a == "llada2-moe") {
    layout.qkv_bias = switched(keys, "use_qkv_bias");
    layout.o_bias = switched(keys, "use_bias");
    // The network has a bias of experts whether or not the file asks for one.
    const bool asked = keys.boolean_or("moe_router_enable_expert_bias", false);
    layout.router_biases = asked ? Presence::kRequired : Presence::kOptional;
  } else if (a != "mistral" && a != "mixtral" && a != "llada") {
    layout.qkv_bias = layout.o_bias = when(keys.boolean_or("attention_bias", false));
  }
  if (a == "llada-moe") {
    layout.qk_norm = keys.boolean_or("qk_layernorm", false);
    layout.router_biases = when(keys.boolean_or("moe_router_enable_expert_bias", false));
  }
  if (a == "llama") layout.mlp_bias = when(keys.boolean_or("mlp_bias", false));
}

// What only draft models trained here have; the keys are ours.
void read_draft(const Keys& keys, Config& config) {
  if (config.architecture != "llama") return;
  config.embedding_width = keys.integer_or("draft_embedding_width", 0);
  const json* tokens = keys.find("draft_head_tokens");
  if (!tokens) return;
  if (!tokens->is_array() || tokens->empty()) keys.bad("draft_head_tokens", "is no list of tokens");
  for (const json& token : *tokens) {
    if (!token.is_number_integer() || token < 0 || token >= config.vocab)
      keys.bad("draft_head_tokens", "holds something else than tokens of the vocabulary");
    config.head_tokens.push_back(token.get<int32_t>());
  }
}

// transformers reads none of mem_len, reuse_len, same_length and dropout for one whole sequence.
Config xlnet_config(Keys keys, const std::string& place) {
  keys.use_names(kXlnetNames);
  require(keys, "attn_type", "bi");
  if (keys.boolean_or("bi_data", false)) keys.unsupported("bi_data", "is true");
  Config c;
  c.architecture = "xlnet";
  c.name = keys.string_if("_name_or_path").value_or("");
  c.attention = AttentionKind::kPermutation;
  c.relative = true;
  c.hidden = keys.integer("hidden_size");
  c.layers = keys.integer("num_hidden_layers");
  c.heads = c.kv_heads = keys.integer("num_attention_heads");
  c.head_dim = keys.integer_or("head_dim", c.heads > 0 ? c.hidden / c.heads : 0);
  c.intermediate = keys.integer("intermediate_size");
  c.vocab = keys.integer("vocab_size");
  // The network has no limit of its own; this is twice the length that it was trained with.
  c.context_length = keys.integer_or("max_position_embeddings", 1024);
  c.norm_eps = float(keys.number_or("rms_norm_eps", 1e-12));
  c.activation = keys.string_if("hidden_act") ? activation(keys, c) : tensor::Activation::kGelu;
  c.tied_head = keys.boolean_or("tie_word_embeddings", true);
  const double clamp = keys.number_or("clamp_len", -1);
  if (clamp > 1 << 20 || clamp != std::floor(clamp)) keys.bad("clamp_len", "is out of range");
  c.clamp_distance = clamp > 0 ? int(clamp) : 0;
  constexpr int kUsualMask = 6;  // of the published tokenizers
  c.mask_token = keys.integer_or("mask_token_id", c.vocab > kUsualMask ? kUsualMask : -1);
  c.attention_scale = c.head_dim > 0 ? float(1.0 / std::sqrt(double(c.head_dim))) : 0.0f;
  check_config(c, place);
  if (c.hidden % 2 != 0) keys.unsupported("hidden_size", "is odd");
  return c;
}

}  // namespace

Config hf_config(const json& object, const std::string& place, TensorLayout& layout) {
  Keys keys(object, place);
  const Family& family = family_of(keys);
  if (std::string_view(family.architecture) == "xlnet") {
    layout = hf_layout("xlnet");
    return xlnet_config(keys, place);
  }
  if (std::string_view(family.architecture) == "bert") {
    layout = hf_layout("bert");
    return bert_config(keys, place);
  }
  if (std::string_view(family.architecture) == "llada") keys.use_names(kLladaNames);
  if (std::string_view(family.architecture) == "llada-moe") keys.use_names(kLladaMoeNames);
  if (keys.find("kv_lora_rank")) keys.unsupported("kv_lora_rank", "is latent attention (MLA)");

  Config config;
  config.architecture = family.architecture;
  config.name = keys.string_if("_name_or_path").value_or("");
  config.hidden = keys.integer("hidden_size");
  config.layers = keys.integer("num_hidden_layers");
  config.heads = keys.integer("num_attention_heads");
  config.kv_heads = keys.integer_or("num_key_value_heads", config.heads);
  // Where every layer has experts nobody asks for it.
  config.intermediate = config.architecture == "llada-moe" ? keys.integer_or("intermediate_size", 0)
                                                           : keys.integer("intermediate_size");
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
  read_axes(keys, config);
  read_draft(keys, config);
  read_layout(keys, config, layout);
  if (config.embedding_width > 0) layout.embedding = layout.embedding_map;
  check_config(config, place);
  return config;
}

tensor::Activation named_activation(const HfKeys& keys, const char* key, const std::string& name) {
  if (name == "silu" || name == "swish") return tensor::Activation::kSilu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast")
    return tensor::Activation::kGeluTanh;
  if (name == "gelu") return tensor::Activation::kGelu;
  if (name == "relu") return tensor::Activation::kRelu;
  keys.unsupported(key, "is " + formats::shown(name));
}

// None of the rotary keys has a name of its own.
HfRopes hf_ropes(const json& object, const std::string& place, const Config& config) {
  return read_ropes(Keys(object, place), config);
}

}  // namespace tutti::models
