#include "convert/source.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "convert/folder_metadata.h"
#include "convert/tokenizer_metadata.h"
#include "models/gguf_config.h"
#include "models/tensor_layout.h"
#include "tensor/quantise.h"

namespace tutti::convert {
namespace {

using models::StoredTensor;

Source from_gguf(const std::filesystem::path& path) {
  Source source;
  source.gguf = std::make_shared<const formats::Gguf>(formats::Gguf::open(path));
  // Refuses architectures whose sensitive tensors are not known.
  const models::Config config = models::gguf_config(*source.gguf);
  source.facts = {config.architecture, config.layers,        config.heads,
                  config.kv_heads,     config.experts.count, false};
  for (const auto& pair : source.gguf->metadata()) {
    if (!pair.first.starts_with("split."))
      source.metadata.push_back(pair);  // the result is one file
  }
  for (const formats::GgufTensor& t : source.gguf->tensors()) {
    source.tensors.push_back({{t.name, t.dims, t.type}, {{t.type, t.data}}});
  }
  return source;
}

// Walks a checkpoint's weights and names them as a GGUF file of `architecture` does.
class Namer {
 public:
  Namer(Source& source, const models::Checkpoint& checkpoint, const std::string& architecture)
      : source_(source),
        c_(checkpoint.config()),
        w_(checkpoint.weights()),
        t_(models::gguf_layout(architecture)) {}

  void name_all() {
    add(c_.embedding_width > 0 ? t_.embedding_map : t_.embedding, {&w_.embedding});
    for (int l = 0; l < c_.layers; ++l)
      name_layer(t_.layer_prefix + std::to_string(l) + ".", w_.layers[size_t(l)]);
    add(t_.output_norm, {&w_.output_norm}, true);
    if (!w_.head.empty()) add(t_.head, {&w_.head});
  }

 private:
  using Layer = models::LayerWeights<StoredTensor, StoredTensor>;
  using StoredLinear = models::Linear<StoredTensor, StoredTensor>;

  void name_layer(const std::string& at, const Layer& l) {
    norm(at + t_.attn_norm, l.attn_norm);
    linear(at + t_.q, l.q, t_.qkv_bias, c_.heads);
    linear(at + t_.k, l.k, t_.qkv_bias, c_.kv_heads);
    linear(at + t_.v, l.v, t_.qkv_bias);
    linear(at + t_.o, l.o, t_.o_bias);
    norm(at + t_.q_norm, l.q_norm);
    norm(at + t_.k_norm, l.k_norm);
    norm(at + t_.post_attn_norm, l.post_attn_norm);
    norm(at + t_.ffn_norm, l.ffn_norm);
    norm(at + t_.post_ffn_norm, l.post_ffn_norm);
    linear(at + t_.gate, l.gate, t_.mlp_bias);
    linear(at + t_.up, l.up, t_.mlp_bias);
    linear(at + t_.down, l.down, t_.mlp_bias);
    if (l.router.empty()) return;
    add(at + t_.router + ".weight", {&l.router});
    if (!l.router_bias.empty()) add(at + t_.router_bias, {&l.router_bias}, true);
    stack(at + t_.stacked_gate, l.expert_gate);
    stack(at + t_.stacked_up, l.expert_up);
    stack(at + t_.stacked_down, l.expert_down);
    if (l.shared_gate.empty()) return;
    if (!l.shared_router.empty()) add(at + t_.shared_router + ".weight", {&l.shared_router}, true);
    add(at + t_.shared_gate + ".weight", {&l.shared_gate});
    add(at + t_.shared_up + ".weight", {&l.shared_up});
    add(at + t_.shared_down + ".weight", {&l.shared_down});
  }

  void norm(const std::string& name, const StoredTensor& t) {
    if (!t.empty()) add(name + ".weight", {&t}, true);
  }

  // `rotated_heads`: of the rows that a rotary embedding turns; 0: none does.
  void linear(const std::string& name, const StoredLinear& l, models::Presence bias,
              int rotated_heads = 0) {
    if (l.weight.empty()) return;
    const int pairs =
        t_.interleaved && rotated_heads > 0 ? int(c_.rope.inverse_frequency.size()) : 0;
    add(name + ".weight", {&l.weight});
    if (pairs > 0) {
      source_.tensors.back().heads = rotated_heads;
      source_.tensors.back().pairs = pairs;
    }
    if (l.bias.empty()) return;
    if (bias == models::Presence::kNever) {
      throw Error(ErrorKind::kUnsupported,
                  source_.place + ": tensor \"" + l.bias.name +
                      "\": GGUF files of this architecture have no such bias; run the "
                      "folder as it is");
    }
    if (pairs == 0) {
      add(name + ".bias", {&l.bias}, true);
      return;
    }
    // One row, whose elements move as the weight's rows do.
    const std::vector<float> from = l.bias.floats();
    const auto bytes = std::make_shared<std::vector<std::byte>>(from.size() * sizeof(float));
    const SourceTensor& weight = source_.tensors.back();
    for (size_t r = 0; r < from.size(); ++r) {
      const float value = from[size_t(paired_row(int64_t(r), weight))];
      std::memcpy(bytes->data() + r * sizeof value, &value, sizeof value);
    }
    source_.owned.push_back(bytes);
    source_.tensors.push_back({{name + ".bias", {uint64_t(from.size())}, tensor::Type::kF32},
                               {{tensor::Type::kF32, *bytes}}});
  }

  void stack(const std::string& name, const std::vector<StoredTensor>& experts) {
    std::vector<const StoredTensor*> parts;
    for (const StoredTensor& e : experts) parts.push_back(&e);
    add(name, parts);
    source_.tensors.back().facts.dims = {uint64_t(experts[0].cols), uint64_t(experts[0].rows),
                                         experts.size()};
  }

  void add(const std::string& name, const std::vector<const StoredTensor*>& parts,
           bool vector = false) {
    const StoredTensor& first = *parts.front();
    SourceTensor t;
    t.facts.name = name;
    t.facts.dims = {uint64_t(first.cols)};
    if (!vector) t.facts.dims.push_back(uint64_t(first.rows));
    t.facts.stored = first.type;
    for (const StoredTensor* part : parts) t.parts.push_back({part->type, part->data});
    source_.tensors.push_back(std::move(t));
  }

 public:
  // The row of a half-split matrix that becomes row r of the paired one.
  static int64_t paired_row(int64_t r, const SourceTensor& t) {
    const int64_t head = t.rows() / t.heads, within = r % head;
    if (within >= 2 * t.pairs) return r;
    return r - within + within / 2 + (within % 2) * t.pairs;
  }

 private:
  Source& source_;
  const models::Config& c_;
  const models::StoredWeights& w_;
  const models::TensorLayout t_;
};

// Some folders of masked models do not name the mask token, which then is known from the model.
void name_mask(formats::GgufMetadata& metadata, const models::Config& config) {
  const std::string key = "tokenizer.ggml.mask_token_id";
  if (config.mask_token < 0 ||
      std::ranges::any_of(metadata, [&](const auto& pair) { return pair.first == key; })) {
    return;
  }
  metadata.emplace_back(key, formats::GgufValue::u32(uint32_t(config.mask_token)));
}

Source from_folder(const std::filesystem::path& path) {
  Source source;
  source.place = path.string();
  source.checkpoint = std::make_shared<const models::Checkpoint>(models::Checkpoint::open(path));
  const models::Config& config = source.checkpoint->config();
  if (config.relative || config.is_encoder()) {
    throw Error(ErrorKind::kUnsupported, path.string() + ": the architecture " +
                                             config.architecture +
                                             " has no form as GGUF; use the folder as it is");
  }
  FolderMetadata folder = folder_metadata(*source.checkpoint);
  source.facts = {folder.architecture, config.layers,        config.heads,
                  config.kv_heads,     config.experts.count, true};
  source.metadata = std::move(folder.metadata);
  if (config.embedding_width == 0) {  // a draft model's tokens are its target's
    TokenizerMetadata tokenizer = tokenizer_metadata(*source.checkpoint->folder(), config.vocab);
    source.metadata.insert(source.metadata.end(),
                           std::make_move_iterator(tokenizer.metadata.begin()),
                           std::make_move_iterator(tokenizer.metadata.end()));
    source.notes = std::move(tokenizer.notes);
  }
  name_mask(source.metadata, config);
  Namer(source, *source.checkpoint, folder.architecture).name_all();
  if (folder.rope_factors.empty()) return source;
  const auto bytes =
      std::make_shared<std::vector<std::byte>>(folder.rope_factors.size() * sizeof(float));
  std::memcpy(bytes->data(), folder.rope_factors.data(), bytes->size());
  source.owned.push_back(bytes);
  source.tensors.push_back({{"rope_freqs.weight", {folder.rope_factors.size()}, tensor::Type::kF32},
                            {{tensor::Type::kF32, *bytes}}});
  return source;
}

}  // namespace

int64_t SourceTensor::rows() const {
  int64_t rows = 1;
  for (size_t d = 1; d < facts.dims.size(); ++d) rows *= int64_t(facts.dims[d]);
  return rows;
}

uint64_t SourceTensor::stored_bytes() const {
  uint64_t sum = 0;
  for (const Part& part : parts) sum += part.bytes.size();
  return sum;
}

bool SourceTensor::one_type() const {
  for (const Part& part : parts) {
    if (part.type != parts.front().type) return false;
  }
  return true;
}

SourceTensor::Part SourceTensor::row(int64_t r) const {
  if (pairs > 0) r = Namer::paired_row(r, *this);
  const int64_t of_part = rows() / int64_t(parts.size());
  const Part& part = parts[size_t(r / of_part)];
  const size_t bytes = tensor::row_bytes(part.type, columns());
  return {part.type, part.bytes.subspan(size_t(r % of_part) * bytes, bytes)};
}

Source Source::open(const std::filesystem::path& path) {
  Source source = std::filesystem::is_directory(path) ? from_folder(path) : from_gguf(path);
  source.path = path;
  source.place = path.string();
  return source;
}

}  // namespace tutti::convert
