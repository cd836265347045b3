#include "models/bert_folder.h"

#include <algorithm>
#include <cmath>
#include <system_error>

#include "base/files.h"
#include "formats/shown.h"
#include "models/hf_config.h"

namespace tutti::models {
namespace {

using nlohmann::json;

constexpr std::pair<std::string_view, const char*> kBertNames[] = {
    {"rms_norm_eps", "layer_norm_eps"},
};

// A small JSON file of a folder; null when it is absent.
json read_json(const std::filesystem::path& file) {
  constexpr size_t kMost = size_t(1) << 20;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file, ignored)) return nullptr;
  try {
    return json::parse(read_file(file, kMost));
  } catch (const json::exception& error) {
    throw Error(ErrorKind::kBadFile, file.string() + ": not JSON: " + formats::shown(error.what()) +
                                         "; fetch the file again");
  }
}

// The newer files have one name for the kind, the older ones a flag for each.
Pooling pooling_of(const HfKeys& keys) {
  if (const auto mode = keys.string_if("pooling_mode")) {
    if (*mode == "mean") return Pooling::kMean;
    if (*mode == "cls") return Pooling::kFirst;
    keys.unsupported("pooling_mode", "is " + formats::shown(*mode));
  }
  for (const char* key : {"pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens",
                          "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"}) {
    if (keys.boolean_or(key, false)) keys.unsupported(key, "is true");
  }
  const bool mean = keys.boolean_or("pooling_mode_mean_tokens", false);
  const bool first = keys.boolean_or("pooling_mode_cls_token", false);
  if (mean == first)
    keys.unsupported("pooling_mode_mean_tokens", "and pooling_mode_cls_token are alike");
  return first ? Pooling::kFirst : Pooling::kMean;
}

// Vectors are the pooled states, of length 1, and nothing else.
void check_modules(const std::filesystem::path& file) {
  const json modules = read_json(file);
  if (modules.is_null()) return;
  const auto bad = [&](const std::string& what) {
    throw Error(ErrorKind::kBadFile, file.string() + ": " + what + "; fetch the file again");
  };
  if (!modules.is_array()) bad("is no list of modules");
  for (const json& module : modules) {
    if (!module.is_object()) bad("holds something else than modules");
    const std::string type = HfKeys(module, file.string()).string_if("type").value_or("");
    const std::string name = type.substr(type.rfind('.') + 1);
    if (name == "Transformer" || name == "Pooling" || name == "Normalize") continue;
    throw Error(ErrorKind::kUnsupported,
                file.string() + ": the module " + formats::shown(type) +
                    " changes the vectors in a way that we do not have; use another model");
  }
}

}  // namespace

Config bert_config(HfKeys keys, const std::string& place) {
  keys.use_names(kBertNames);
  const std::string positions = keys.string_if("position_embedding_type").value_or("absolute");
  if (positions != "absolute")
    keys.unsupported("position_embedding_type", "is " + formats::shown(positions));
  for (const char* key : {"is_decoder", "add_cross_attention"}) {
    if (keys.boolean_or(key, false)) keys.unsupported(key, "is true");
  }
  Config c;
  c.architecture = "bert";
  c.name = keys.string_if("_name_or_path").value_or("");
  c.attention = AttentionKind::kEncoder;
  c.hidden = keys.integer("hidden_size");
  c.layers = keys.integer("num_hidden_layers");
  c.heads = c.kv_heads = keys.integer("num_attention_heads");
  if (c.heads > 0 && c.hidden % c.heads != 0)
    keys.bad("hidden_size", "is no multiple of num_attention_heads");
  c.head_dim = c.heads > 0 ? c.hidden / c.heads : 0;
  c.intermediate = keys.integer("intermediate_size");
  c.vocab = keys.integer("vocab_size");
  c.context_length = keys.integer_or("max_position_embeddings", 512);
  c.token_types = keys.integer_or("type_vocab_size", 2);
  c.norm_eps = float(keys.number_or("rms_norm_eps", 1e-12));
  c.activation =
      named_activation(keys, "hidden_act", keys.string_if("hidden_act").value_or("gelu"));
  c.attention_scale = c.head_dim > 0 ? float(1.0 / std::sqrt(double(c.head_dim))) : 0.0f;
  check_config(c, place);
  return c;
}

void find_bert_names(const TensorTable& table, TensorLayout& layout) {
  if (!table.has("bert." + layout.embedding)) return;
  for (std::string* name : {&layout.embedding, &layout.positions, &layout.types,
                            &layout.embedding_norm, &layout.layer_prefix}) {
    name->insert(0, "bert.");
  }
}

std::optional<ScoreHead> take_score_head(const Config& c, TensorTable& table) {
  const auto unused = [](const std::string& name) {
    return name.ends_with("embeddings.position_ids") || name.starts_with("pooler.") ||
           name.starts_with("bert.pooler.") || name.starts_with("cls.");
  };
  const auto shape = table.shape("classifier.weight");
  if (shape.size() != 2) {
    table.ignore_if(unused);
    return std::nullopt;
  }
  const int64_t labels = shape.front();
  ScoreHead head;
  head.pooler = {table.take("bert.pooler.dense.weight", {c.hidden, c.hidden}),
                 table.take("bert.pooler.dense.bias", {c.hidden})};
  head.classifier = {table.take("classifier.weight", {labels, c.hidden}),
                     table.take("classifier.bias", {labels})};
  table.ignore_if(unused);
  return head;
}

void read_sentence_files(const std::filesystem::path& folder, Config& config) {
  const auto sentence = folder / "sentence_bert_config.json";
  if (const json file = read_json(sentence); !file.is_null()) {
    const int most = HfKeys(file, sentence.string()).integer_or("max_seq_length", INT32_MAX);
    if (most < 1) HfKeys(file, sentence.string()).bad("max_seq_length", "is 0");
    config.context_length = std::min(config.context_length, most);
  }
  check_modules(folder / "modules.json");
  const auto pooling = folder / "1_Pooling" / "config.json";
  if (const json file = read_json(pooling); !file.is_null())
    config.pooling = pooling_of(HfKeys(file, pooling.string()));
}

}  // namespace tutti::models
