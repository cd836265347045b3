#include "vision/vision_config.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/json_text.h"
#include "formats/shown.h"
#include "models/hf_keys.h"
#include "models/tensor_table.h"

namespace tutti::vision {
namespace {

using models::HfKeys;
using nlohmann::json;

constexpr int kMostBlocks = 4096, kWidest = 1 << 20;

int size(const HfKeys& keys, const char* key, int usual, int least, int most) {
  const int value = keys.integer_or(key, usual);
  if (value < least || value > most) {
    keys.bad(key, "is not in " + std::to_string(least) + " … " + std::to_string(most));
  }
  return value;
}

void require(const HfKeys& keys, const char* key, int only) {
  const int value = keys.integer_or(key, only);
  if (value != only) keys.unsupported(key, "is " + std::to_string(value));
}

void read_full_blocks(const HfKeys& keys, VisionConfig& c) {
  c.full.assign(size_t(c.depth), false);
  const json* list = keys.find("fullatt_block_indexes");
  if (!list) {
    for (int block = 7; block < c.depth; block += 8) c.full[size_t(block)] = true;
    return;
  }
  if (!list->is_array()) keys.bad("fullatt_block_indexes", "is no list");
  for (const json& block : *list) {
    if (!block.is_number_integer() || block.get<int64_t>() < 0 || block.get<int64_t>() >= c.depth) {
      keys.bad("fullatt_block_indexes", "names a block that is not there");
    }
    c.full[block.get<size_t>()] = true;
  }
}

void read_tower(const HfKeys& keys, VisionConfig& c) {
  Preprocessing& p = c.preprocessing;
  c.depth = size(keys, "depth", 32, 1, kMostBlocks);
  c.hidden = size(keys, "hidden_size", 1280, 4, kWidest);
  c.intermediate = size(keys, "intermediate_size", 3420, 1, kWidest);
  c.heads = size(keys, "num_heads", 16, 1, kWidest);
  c.out_hidden = size(keys, "out_hidden_size", 3584, 1, kWidest);
  p.patch = size(keys, "patch_size", 14, 1, 256);
  p.merge = size(keys, "spatial_merge_size", 2, 1, 16);
  p.temporal = size(keys, "temporal_patch_size", 2, 1, 16);
  require(keys, "in_channels", 3);
  require(keys, "in_chans", 3);
  if (c.hidden % c.heads != 0 || c.head_dim() % 4 != 0) {
    keys.bad("num_heads", "does not cut hidden_size into heads of a multiple of 4");
  }
  const int window = size(keys, "window_size", 112, 1, 1 << 16);
  c.window = window / p.patch / p.merge;
  if (c.window < 1) keys.bad("window_size", "is smaller than a merge cell");
  if (const auto act = keys.string_if("hidden_act"); act && *act != "silu") {
    keys.unsupported("hidden_act", "is " + formats::shown(*act));
  }
  read_full_blocks(keys, c);
}

std::array<float, 3> channels(const HfKeys& keys, const char* key, std::array<float, 3> usual) {
  const json* list = keys.find(key);
  if (!list) return usual;
  if (!list->is_array() || list->size() != 3) keys.bad(key, "is no list of three numbers");
  std::array<float, 3> out{};
  for (size_t i = 0; i < 3; ++i) {
    if (!list->at(i).is_number()) keys.bad(key, "is no list of three numbers");
    out[i] = list->at(i).get<float>();
  }
  return out;
}

int64_t pixels(const HfKeys& keys, const char* key, int64_t usual) {
  const double value = keys.number_or(key, double(usual));
  if (!(value >= 1 && value <= double(kMaxPixels))) keys.bad(key, "is out of range");
  return int64_t(value);
}

void read_preprocessor(const HfKeys& keys, Preprocessing& p) {
  const HfKeys sides = keys.object("size");
  p.min_pixels = pixels(keys, "min_pixels", pixels(sides, "shortest_edge", p.min_pixels));
  p.max_pixels = pixels(keys, "max_pixels", pixels(sides, "longest_edge", p.max_pixels));
  if (p.min_pixels > p.max_pixels) keys.bad("min_pixels", "is above max_pixels");
  p.mean = channels(keys, "image_mean", p.mean);
  p.deviation = channels(keys, "image_std", p.deviation);
  for (const float d : p.deviation) {
    if (!(d > 0)) keys.bad("image_std", "is not positive");
  }
}

}  // namespace

bool has_vision(const models::Checkpoint& checkpoint) {
  return checkpoint.folder() && checkpoint.config().architecture == "dimple";
}

VisionConfig vision_config(const models::Checkpoint& checkpoint) {
  if (!has_vision(checkpoint)) {
    throw Error(ErrorKind::kUsage, "image: this model (" + checkpoint.config().architecture +
                                       ") reads no images; leave them out or take a Dimple folder");
  }
  const formats::ModelFolder& folder = *checkpoint.folder();
  const HfKeys keys(folder.config(), (folder.path() / "config.json").string());
  VisionConfig c;
  c.text_hidden = checkpoint.config().hidden;
  c.image_token = int32_t(keys.integer_or("image_token_id", 151655));
  if (c.image_token >= checkpoint.config().vocab)
    keys.bad("image_token_id", "is not in the vocabulary");
  c.video_token = int32_t(keys.integer_or("video_token_id", 151656));
  read_tower(keys.object("vision_config"), c);
  const std::string file = "preprocessor_config.json";
  if (const auto text = folder.text(file)) {
    const std::string place = (folder.path() / file).string();
    const json object = formats::parse_json(*text, place);
    if (!object.is_object())
      throw Error(ErrorKind::kBadFile, place + ": is no JSON object; fetch it again");
    read_preprocessor(HfKeys(object, place), c.preprocessing);
  }
  return c;
}

std::vector<TensorShape> vision_tensors(const VisionConfig& c) {
  const Preprocessing& p = c.preprocessing;
  const int64_t hidden = c.hidden, inner = c.intermediate, merged = c.merged(), out = c.out_hidden,
                text = c.text_hidden;
  std::vector<TensorShape> all;
  const auto linear = [&](const std::string& name, int64_t to, int64_t from) {
    all.push_back({name + ".weight", {to, from}});
    all.push_back({name + ".bias", {to}});
  };
  all.push_back({"visual.patch_embed.proj.weight", {hidden, 3, p.temporal, p.patch, p.patch}});
  for (int b = 0; b < c.depth; ++b) {
    const std::string at = "visual.blocks." + std::to_string(b) + ".";
    all.push_back({at + "norm1.weight", {hidden}});
    all.push_back({at + "norm2.weight", {hidden}});
    linear(at + "attn.qkv", 3 * hidden, hidden);
    linear(at + "attn.proj", hidden, hidden);
    linear(at + "mlp.gate_proj", inner, hidden);
    linear(at + "mlp.up_proj", inner, hidden);
    linear(at + "mlp.down_proj", hidden, inner);
  }
  all.push_back({"visual.merger.ln_q.weight", {hidden}});
  linear("visual.merger.mlp.0", merged, merged);
  linear("visual.merger.mlp.2", out, merged);
  linear("img_projector.linear_1", text, out);
  linear("img_projector.linear_2", text, text);
  return all;
}

VisionWeights vision_weights(const models::Checkpoint& checkpoint, const VisionConfig& config) {
  VisionWeights weights;
  models::TensorTable table = models::folder_tensors(*checkpoint.folder(), weights.owned);
  for (TensorShape& shape : vision_tensors(config)) {
    models::StoredTensor data = table.take(shape.name, shape.shape);
    weights.tensors.push_back({std::move(shape), std::move(data)});
  }
  table.ignore_if([](const std::string& name) { return !models::is_vision_tensor(name); });
  table.check_all_taken();
  return weights;
}

}  // namespace tutti::vision
