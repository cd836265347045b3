#include "models/checkpoint.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ranges>
#include <set>

#include "base/error.h"
#include "base/hash.h"
#include "formats/quantised_layers.h"
#include "models/bert_folder.h"
#include "models/gguf_config.h"
#include "models/hf_config.h"
#include "models/rope.h"
#include "models/tensor_layout.h"
#include "models/tensor_table.h"
#include "models/weight_loader.h"
#include "tensor/grid.h"
#include "tensor/kernels.h"
#include "tensor/quantise.h"

namespace tutti::models {
namespace {

void refuse_latent_attention(const TensorTable& table) {
  for (const char* part : {"kv_a_proj_with_mqa", "attn_kv_a_mqa"}) {
    const std::string name = table.first_with(part);
    if (name.empty()) continue;
    throw Error(ErrorKind::kUnsupported,
                table.place() + ": tensor \"" + name +
                    "\": latent attention (MLA) is not supported; use a model "
                    "with ordinary attention");
  }
}

TensorTable table_of(const formats::Gguf& gguf) {
  TensorTable table(gguf.name());
  for (const formats::GgufTensor& t : gguf.tensors()) {
    TensorTable::Entry entry;
    for (const uint64_t dim : std::views::reverse(t.dims)) entry.shape.push_back(int64_t(dim));
    entry.type = t.type;
    entry.data = t.data;
    table.add(t.name, std::move(entry));
  }
  return table;
}

// fp64 has no kernels; its values become fp32.
std::span<const std::byte> narrowed(const formats::SafetensorsTensor& t, OwnedBytes& owned) {
  const size_t n = t.data.size() / sizeof(double);
  auto bytes = std::make_shared<std::vector<std::byte>>(n * sizeof(float));
  for (size_t i = 0; i < n; ++i) {
    double x;
    std::memcpy(&x, t.data.data() + i * sizeof x, sizeof x);
    const auto f = float(x);
    std::memcpy(bytes->data() + i * sizeof f, &f, sizeof f);
  }
  owned.push_back(bytes);
  return *bytes;
}

// The matrices of quantised layers, each of several tensors, in a type that the kernels know.
// Returns the names of those tensors.
std::set<std::string> add_quantised_layers(const formats::Safetensors& weights,
                                           const formats::QuantisedScheme& scheme,
                                           TensorTable& table, OwnedBytes& owned) {
  std::set<std::string> parts;
  for (const std::string& prefix : formats::quantised_layers(weights, scheme)) {
    const tensor::Grid grid = formats::read_layer(weights, scheme, prefix);
    tensor::StoredGrid stored = tensor::stored(grid);
    owned.push_back(std::make_shared<std::vector<std::byte>>(std::move(stored.rows)));
    TensorTable::Entry entry;
    entry.shape = {grid.out, grid.in};
    entry.type = stored.type;
    entry.data = *owned.back();
    table.add(prefix + ".weight", std::move(entry));
    for (std::string& part : formats::layer_parts(scheme, prefix)) parts.insert(std::move(part));
  }
  return parts;
}

// AutoGPTQ writes a bias of zeros where the model has none.
void ignore_empty_biases(const formats::Safetensors& weights,
                         const formats::QuantisedScheme& scheme, TensorTable& table) {
  for (const std::string& prefix : formats::quantised_layers(weights, scheme)) {
    const formats::SafetensorsTensor* bias = weights.find(prefix + ".bias");
    if (bias && std::ranges::all_of(bias->data, [](std::byte b) { return b == std::byte{0}; }))
      table.ignore(bias->name);
  }
}

TensorTable table_of(const formats::Safetensors& weights, const std::string& place,
                     const std::optional<formats::QuantisedScheme>& scheme, OwnedBytes& owned) {
  TensorTable table(place);
  std::set<std::string> parts;
  if (scheme) parts = add_quantised_layers(weights, *scheme, table, owned);
  for (const formats::SafetensorsTensor& t : weights.tensors()) {
    if (parts.contains(t.name)) continue;
    TensorTable::Entry entry;
    for (const uint64_t dim : t.shape) entry.shape.push_back(int64_t(dim));
    entry.data = t.data;
    switch (t.dtype) {
      case formats::Dtype::kF32:
        entry.type = tensor::Type::kF32;
        break;
      case formats::Dtype::kF16:
        entry.type = tensor::Type::kF16;
        break;
      case formats::Dtype::kBF16:
        entry.type = tensor::Type::kBF16;
        break;
      case formats::Dtype::kF64:
        entry.data = narrowed(t, owned);
        break;
      default:
        entry.unreadable = formats::info(t.dtype).name;
    }
    table.add(t.name, std::move(entry));
  }
  return table;
}

// Buffers that old exports carry along; they follow from the configuration.
bool is_redundant(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with(".attn_rot_embd") ||
         name.ends_with("attn_rot_embd.weight") || name.ends_with("self_attn.bias") ||
         name.ends_with("self_attn.masked_bias") || name == "rope.freqs";
}

}  // namespace

bool is_vision_tensor(const std::string& name) {
  return name.starts_with("visual.") || name.starts_with("img_projector.");
}

TensorTable folder_tensors(const formats::ModelFolder& folder, OwnedBytes& owned) {
  return table_of(folder.weights(), folder.path().string(), formats::quantised_scheme(folder),
                  owned);
}

Checkpoint Checkpoint::open(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) {
    return from_folder(
        std::make_shared<const formats::ModelFolder>(formats::ModelFolder::open(path)));
  }
  if (path.extension() == ".safetensors") {
    throw Error(ErrorKind::kUsage,
                path.string() +
                    ": a safetensors file does not say how its model works; give "
                    "the folder with its config.json");
  }
  return from_gguf(std::make_shared<const formats::Gguf>(formats::Gguf::open(path)));
}

Checkpoint Checkpoint::from_gguf(std::shared_ptr<const formats::Gguf> gguf) {
  Checkpoint c;
  TensorTable table = table_of(*gguf);
  refuse_latent_attention(table);
  c.config_ = gguf_config(*gguf);
  TensorLayout layout = gguf_layout(c.config_.architecture);
  if (c.config_.embedding_width > 0) layout.embedding = layout.embedding_map;
  c.weights_ = load_weights(c.config_, layout, table, c.owned_);
  const auto pairs = int64_t(c.config_.rope.inverse_frequency.size());
  const StoredTensor factors = table.take_if("rope_freqs.weight", {pairs});
  if (!factors.empty()) divide_frequencies(c.config_.rope, factors.floats(), gguf->name());
  table.ignore_if(is_redundant);
  table.check_all_taken();
  c.gguf_ = std::move(gguf);
  return c;
}

Checkpoint Checkpoint::from_folder(std::shared_ptr<const formats::ModelFolder> folder) {
  Checkpoint c;
  const std::string place = folder->path().string();
  const auto scheme = formats::quantised_scheme(*folder);
  TensorTable table = table_of(folder->weights(), place, scheme, c.owned_);
  refuse_latent_attention(table);
  TensorLayout layout;
  c.config_ = hf_config(folder->config(), (folder->path() / "config.json").string(), layout);
  if (c.config_.is_encoder()) find_bert_names(table, layout);
  if (const auto shape = table.shape(layout.embedding);
      c.config_.embedding_width == 0 && shape.size() == 2 && shape[0] <= INT32_MAX) {
    // Some folders pad the embedding beyond the stated vocabulary.
    c.config_.vocab = int(shape[0]);
    check_config(c.config_, place);
  }
  c.weights_ = load_weights(c.config_, layout, table, c.owned_);
  if (c.config_.tied_head) table.ignore(layout.head);
  if (c.config_.is_encoder()) {
    c.score_head_ = take_score_head(c.config_, table);
    read_sentence_files(folder->path(), c.config_);
  }
  if (scheme) ignore_empty_biases(folder->weights(), *scheme, table);
  table.ignore_if(is_redundant);
  if (c.config_.architecture == "dimple") table.ignore_if(is_vision_tensor);
  table.check_all_taken();
  c.folder_ = std::move(folder);
  return c;
}

void Checkpoint::take_embeddings(const StoredTensor& table) {
  if (config_.embedding_width == 0) return;
  const int vocab = config_.vocab, hidden = config_.hidden, width = config_.embedding_width;
  if (table.rows != vocab || table.cols != width) {
    throw Error(ErrorKind::kUnsupported,
                "draft model: maps embeddings of " + std::to_string(vocab) + " tokens, " +
                    std::to_string(width) + " wide, but the model's are " +
                    std::to_string(table.rows) + ", " + std::to_string(table.cols) +
                    " wide; use it with the model that it was trained for");
  }
  const StoredTensor& stored = weights_.embedding;
  const auto map =
      tensor::Matrix::pack(stored.type, stored.data, hidden, width, tensor::Arithmetic::kExactF32);
  const size_t row = tensor::row_bytes(tensor::Type::kF16, hidden);
  const auto bytes = std::make_shared<std::vector<std::byte>>(size_t(vocab) * row);
  constexpr int kRows = 64;  // at a time
  std::vector<float> out(size_t(kRows) * size_t(hidden));
  for (int first = 0; first < vocab; first += kRows) {
    const int rows = std::min(kRows, vocab - first);
    const std::vector<float> in = table.slice(first, rows).floats();
    tensor::kernels().matmul_dense(map, in.data(), size_t(width), rows, 0, map.tiles(), out.data(),
                                   size_t(hidden));
    tensor::quantise(tensor::Type::kF16, std::span(out).first(size_t(rows) * size_t(hidden)),
                     std::span(*bytes).subspan(size_t(first) * row, size_t(rows) * row));
  }
  owned_.push_back(bytes);
  weights_.embedding = {tensor::Type::kF16, vocab, hidden, *bytes, stored.name};
  config_.embedding_width = 0;
}

const std::vector<std::shared_ptr<MappedFile>>& Checkpoint::files() const {
  return gguf_ ? gguf_->files() : folder_->weights().files();
}

std::optional<uint64_t> Checkpoint::identity() const {
  constexpr int64_t kTwoTicks =
      2'000'000'000;  // of the coarsest clocks of file systems, in nanoseconds
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t settled = std::chrono::nanoseconds(now).count() - kTwoTicks;
  Xxh64 hash;
  for (const auto& file : files()) {
    const FileStamp& stamp = file->stamp();
    if (std::max(stamp.modified, stamp.changed) > settled) return std::nullopt;
    hash.add(stamp.device);
    hash.add(stamp.inode);
    hash.add(stamp.size);
    hash.add(stamp.modified);
    hash.add(stamp.changed);
  }
  if (files().empty()) return std::nullopt;
  // A folder's configuration says which rows are permuted and how quantised layers are read.
  if (folder_) {
    for (const std::string& text :
         {folder_->config().dump(), folder_->text("quantize_config.json").value_or("")}) {
      hash.add(uint64_t(text.size()));
      hash.add(std::as_bytes(std::span(text)));
    }
  }
  return hash.digest();
}

void Checkpoint::forget(std::span<const std::byte> part) const {
  for (const auto& file : files()) file->forget(part);
}

void Checkpoint::forget_all() const {
  for (const auto& file : files()) file->forget(file->bytes());
}

}  // namespace tutti::models
