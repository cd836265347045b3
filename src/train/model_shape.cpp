#include "train/model_shape.h"

#include <algorithm>

#include "base/error.h"
#include "models/gguf_config.h"
#include "models/hf_config.h"

namespace tutti::train {
namespace {

struct Family {
  const char* name;
  const char* network;  // as "architectures" says
  const char* model_type;
  const char* tensors;  // the family whose tensors it has
};
constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", "llama", "llama"},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", "qwen2"},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", "qwen3"},
    {"llada", "LLaDAModelLM", "llada", "llama"},
    {"dream", "DreamModel", "Dream", "qwen2"},
    {"sdar", "SDARForCausalLM", "sdar", "qwen3"},
    {"xlnet", "XLNetLMHeadModel", "xlnet", "xlnet"},
};

const Family& family_of(const std::string& name) {
  for (const Family& family : kFamilies) {
    if (name == family.name) return family;
  }
  throw Error(ErrorKind::kUnsupported,
              "train: no network of the family " + name + " is trained here");
}

void check(const ModelShape& s) {
  const bool own_head_dim =
      s.family == "llama" || s.family == "qwen3" || s.family == "sdar" || s.family == "xlnet";
  if (s.family == "xlnet" && s.kv_heads != s.heads) {
    throw Error(ErrorKind::kUsage,
                "model: the family xlnet has as many key/value heads as heads; leave kv_heads out");
  }
  if (!own_head_dim && s.head_dim * s.heads != s.hidden) {
    throw Error(ErrorKind::kUsage, "model: " + std::to_string(s.heads) + " heads of " +
                                       std::to_string(s.head_dim) + " are not the hidden size " +
                                       std::to_string(s.hidden) + "; the family " + s.family +
                                       " asks for that (llama, qwen3, sdar and xlnet do not)");
  }
  const bool masked = s.family == "llada" || s.family == "dream" || s.family == "sdar";
  if (masked && s.mask_token < 0) {
    throw Error(ErrorKind::kUsage,
                "model: the family " + s.family +
                    " needs a mask token, and the tokenizer has none; name one in tokenizer.mask");
  }
}

nlohmann::ordered_json llada_json(const ModelShape& s) {
  return {{"d_model", s.hidden},
          {"n_layers", s.layers},
          {"n_heads", s.heads},
          {"n_kv_heads", s.kv_heads},
          {"mlp_hidden_size", s.intermediate},
          {"embedding_size", s.vocab},
          {"vocab_size", s.vocab},
          {"max_sequence_length", s.context},
          {"rope", true},
          {"rope_theta", s.rope_theta},
          {"rope_full_precision", true},
          {"rms_norm_eps", s.norm_epsilon},
          {"layer_norm_type", "rms"},
          {"layer_norm_with_affine", true},
          {"attention_layer_norm", false},
          {"activation_type", "silu"},
          {"block_type", "llama"},
          {"block_group_size", 1},
          {"include_bias", false},
          {"include_qkv_bias", false},
          {"weight_tying", s.tied_head},
          {"scale_logits", false},
          {"input_emb_norm", false},
          {"mask_token_id", s.mask_token},
          {"eos_token_id", s.eos_token},
          {"pad_token_id", s.eos_token},
          {"use_cache", false}};
}

nlohmann::ordered_json xlnet_json(const ModelShape& s) {
  return {{"vocab_size", s.vocab},
          {"d_model", s.hidden},
          {"n_layer", s.layers},
          {"n_head", s.heads},
          {"d_head", s.head_dim},
          {"d_inner", s.intermediate},
          {"ff_activation", "gelu"},
          {"untie_r", true},
          {"attn_type", "bi"},
          {"bi_data", false},
          {"clamp_len", -1},
          {"same_length", false},
          {"mem_len", nullptr},
          {"reuse_len", nullptr},
          {"dropout", 0.0},
          {"layer_norm_eps", s.norm_epsilon},
          {"max_position_embeddings", s.context},
          {"tie_word_embeddings", s.tied_head},
          {"mask_token_id", s.mask_token},
          {"bos_token_id", s.eos_token},
          {"eos_token_id", s.eos_token},
          {"pad_token_id", s.eos_token}};
}

nlohmann::ordered_json common_json(const ModelShape& s) {
  nlohmann::ordered_json j{{"hidden_size", s.hidden},
                           {"num_hidden_layers", s.layers},
                           {"num_attention_heads", s.heads},
                           {"num_key_value_heads", s.kv_heads},
                           {"head_dim", s.head_dim},
                           {"intermediate_size", s.intermediate},
                           {"hidden_act", "silu"},
                           {"vocab_size", s.vocab},
                           {"max_position_embeddings", s.context},
                           {"rope_theta", s.rope_theta},
                           {"rms_norm_eps", s.norm_epsilon},
                           {"tie_word_embeddings", s.tied_head},
                           {"attention_bias", false},
                           {"eos_token_id", s.eos_token},
                           {"use_cache", true}};
  if (s.embedding_width > 0) j["draft_embedding_width"] = s.embedding_width;
  if (!s.head_tokens.empty()) j["draft_head_tokens"] = s.head_tokens;
  if (s.family == "dream" || s.family == "sdar") j["mask_token_id"] = s.mask_token;
  if (s.family == "sdar") j["block_size"] = s.block;
  return j;
}

bool can_be(const std::string& architecture, const std::string& family) {
  const std::string given = family_of(architecture).tensors, wanted = family_of(family).tensors;
  return given == wanted || (given == "llama" && wanted == "qwen2");
}

models::RopeParameters rope_of(const models::Checkpoint& checkpoint) {
  const models::Config& c = checkpoint.config();
  if (checkpoint.gguf()) return models::gguf_rope(*checkpoint.gguf(), c);
  const formats::ModelFolder& folder = *checkpoint.folder();
  return models::hf_ropes(folder.config(), (folder.path() / "config.json").string(), c).full;
}

// A ModelShape knows frequencies by their base only.
bool is_plain(const models::RopeParameters& rope, const models::Config& c) {
  return rope.scaling.kind == models::RopeScaling::kNone && rope.dims == c.head_dim &&
         c.rope.magnitude == 1 &&
         c.rope.inverse_frequency == models::make_rope(rope, "model.from").inverse_frequency;
}

bool has_biases(const models::StoredWeights& weights) {
  for (const auto& l : weights.layers) {
    for (const auto* linear : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) {
      if (!linear->bias.empty()) return true;
    }
  }
  return false;
}

}  // namespace

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.name);
  return names;
}

nlohmann::ordered_json config_json(const ModelShape& shape) {
  check(shape);
  const Family& family = family_of(shape.family);
  nlohmann::ordered_json j{{"architectures", {family.network}}, {"model_type", family.model_type}};
  j.update(shape.family == "llada"   ? llada_json(shape)
           : shape.family == "xlnet" ? xlnet_json(shape)
                                     : common_json(shape));
  return j;
}

ShapedConfig shaped_config(const ModelShape& shape) {
  ShapedConfig out;
  out.config = models::hf_config(nlohmann::json(config_json(shape)), "model", out.layout);
  return out;
}

ModelShape shape_of(const models::Checkpoint& checkpoint, const std::string& family) {
  const models::Config& c = checkpoint.config();
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorKind::kUnsupported, "model.from: " + what + "; train another model");
  };
  ModelShape s;
  s.family = family.empty() ? c.architecture : family;
  if (!can_be(c.architecture, s.family)) {
    refuse("has no tensors of the family " + s.family + ", being " + c.architecture);
  }
  if (std::string(family_of(c.architecture).tensors) == "llama" && has_biases(checkpoint.weights()))
    refuse("has biases");
  if (c.relative) {
    if (c.clamp_distance > 0) refuse("clamps distances (clamp_len)");
  } else {
    const models::RopeParameters rope = rope_of(checkpoint);
    if (!is_plain(rope, c)) refuse("has a scaled or partial rotary embedding");
    s.rope_theta = rope.base;
  }
  if (!c.sliding.empty()) refuse("has sliding windows");
  if (c.attention_cap > 0 || c.logit_cap > 0) refuse("caps its scores or logits");
  if (c.experts.count > 0) refuse("has experts");
  if (c.embedding_width > 0 || !c.head_tokens.empty()) refuse("is a draft model of another");
  const bool usual =
      c.activation == (c.relative ? tensor::Activation::kGelu : tensor::Activation::kSilu);
  if (!usual) refuse("has an activation other than its family's");
  s.layers = c.layers;
  s.hidden = c.hidden;
  s.heads = c.heads;
  s.kv_heads = c.kv_heads;
  s.head_dim = c.head_dim;
  s.intermediate = c.intermediate;
  s.context = c.context_length;
  s.vocab = c.vocab;
  s.norm_epsilon = double(c.norm_eps);
  s.tied_head = c.tied_head;
  s.block = c.attention_block;
  s.mask_token = c.mask_token;
  return s;
}

}  // namespace tutti::train
