#include "formats/quantised_layers.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/half.h"
#include "formats/json_text.h"
#include "formats/shown.h"
#include "tensor/marlin.h"

namespace tutti::formats {
namespace {

using nlohmann::json;
using tensor::Grid;
using Kind = QuantisedScheme::Kind;

constexpr std::array<int, 8> kAwqOrder = {0, 2, 4, 6, 1, 3, 5, 7};

// The tensor whose presence makes a layer one of this kind.
std::string_view main_part(Kind kind) {
  switch (kind) {
    case Kind::kGptq:
    case Kind::kAwq:
      return ".qweight";
    case Kind::kCompressedTensors:
      return ".weight_packed";
    case Kind::kMarlin:
      return ".B";
    case Kind::kSparseMarlin:
      return ".B_24";
  }
  return {};
}

std::vector<std::string_view> parts(Kind kind) {
  switch (kind) {
    case Kind::kGptq:
    case Kind::kAwq:
      return {".qweight", ".qzeros", ".scales", ".g_idx"};
    case Kind::kCompressedTensors:
      return {".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point",
              ".weight_g_idx"};
    case Kind::kMarlin:
      return {".B", ".s", ".workspace"};
    case Kind::kSparseMarlin:
      return {".B_24", ".B_meta", ".s", ".workspace"};
  }
  return {};
}

// A "quantization_config", read with its types checked.
class SchemeReader {
 public:
  SchemeReader(const json& config, std::string place) : config_(config), place_(std::move(place)) {}

  QuantisedScheme read() const {
    if (!config_.is_object()) bad("is no object");
    const std::string method = text(config_, "quant_method").value_or("unknown");
    if (method == "compressed-tensors") return compressed();
    QuantisedScheme scheme;
    scheme.bits = integer(config_, config_.contains("bits") ? "bits" : "w_bit").value_or(4);
    scheme.group = integer(config_, config_.contains("group_size") ? "group_size" : "q_group_size")
                       .value_or(-1);
    const std::string format = text(config_, "checkpoint_format").value_or("");
    if (method == "marlin" || format == "marlin" || flag(config_, "is_marlin_format")) {
      scheme.kind = Kind::kMarlin;
    } else if (method == "gptq_marlin_24" || format == "marlin_24") {
      scheme.kind = Kind::kSparseMarlin;
    } else if (method == "gptq" && (format.empty() || format == "gptq" || format == "gptq_v2")) {
      scheme.kind = Kind::kGptq;
      scheme.zeros_less_one = format != "gptq_v2";
    } else if (method == "awq" && text(config_, "version").value_or("gemm") == "gemm") {
      scheme.kind = Kind::kAwq;
    } else {
      refuse("weights quantised by " + shown(method) +
             (format.empty() ? "" : " in the format " + shown(format)));
    }
    check(scheme);
    return scheme;
  }

 private:
  QuantisedScheme compressed() const {
    QuantisedScheme scheme;
    scheme.kind = Kind::kCompressedTensors;
    const std::string format = text(config_, "format").value_or("unknown");
    if (format != "pack-quantized") refuse("compressed tensors in the format " + shown(format));
    const auto groups = config_.find("config_groups");
    if (groups == config_.end() || !groups->is_object() || groups->empty())
      bad("has no config_groups");
    bool first = true;
    for (const auto& [name, group] : groups->items()) {
      const auto weights = group.is_object() ? group.find("weights") : group.end();
      if (!group.is_object() || weights == group.end() || !weights->is_object())
        bad("has a group without weights");
      QuantisedScheme own = scheme;
      own.bits = integer(*weights, "num_bits").value_or(0);
      own.group = integer(*weights, "group_size").value_or(-1);
      const std::string strategy = text(*weights, "strategy").value_or("group");
      if (strategy != "group" && strategy != "channel")
        refuse("compressed tensors by " + shown(strategy));
      if (text(*weights, "type").value_or("int") != "int")
        refuse("compressed tensors that are no integers");
      if (!first && (own.bits != scheme.bits || own.group != scheme.group))
        refuse("compressed tensors of several numbers of bits or sizes of groups");
      scheme = own;
      first = false;
    }
    check(scheme);
    return scheme;
  }

  void check(const QuantisedScheme& s) const {
    const bool eight = s.kind == Kind::kGptq || s.kind == Kind::kCompressedTensors;
    if (s.bits != 4 && !(s.bits == 8 && eight))
      refuse(std::string(name(s.kind)) + " weights of " + std::to_string(s.bits) + " bits");
    if (s.group != -1 && s.group < 1) bad("has groups of " + std::to_string(s.group));
  }

  std::optional<std::string> text(const json& object, const char* key) const {
    const auto it = object.find(key);
    if (it == object.end() || it->is_null()) return std::nullopt;
    if (!it->is_string()) bad(std::string("has a ") + key + " that is no text");
    return it->get<std::string>();
  }
  std::optional<int> integer(const json& object, const char* key) const {
    const auto it = object.find(key);
    if (it == object.end() || it->is_null()) return std::nullopt;
    if (!it->is_number_integer() || it->get<double>() < -1 || it->get<double>() > INT32_MAX)
      bad(std::string("has a ") + key + " that is no number in range");
    return it->get<int>();
  }
  bool flag(const json& object, const char* key) const {
    const auto it = object.find(key);
    return it != object.end() && it->is_boolean() && it->get<bool>();
  }

  [[noreturn]] void bad(const std::string& what) const {
    throw Error(ErrorKind::kBadFile, place_ + ": " + what + "; export the model again");
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::kUnsupported,
                place_ + ": " + what +
                    " are not read; use 4-bit GPTQ, AWQ, compressed-tensors or MARLIN, the "
                    "model in F32, F16 or BF16, or a GGUF of it");
  }

  const json& config_;
  const std::string place_;
};

// The tensors of one layer, with their types and shapes checked when taken.
class LayerReader {
 public:
  LayerReader(const Safetensors& weights, const QuantisedScheme& scheme, const std::string& prefix)
      : weights_(weights), scheme_(scheme), prefix_(prefix), pack_(32 / scheme.bits) {}

  Grid read() {
    switch (scheme_.kind) {
      case Kind::kGptq:
        return gptq();
      case Kind::kAwq:
        return awq();
      case Kind::kCompressedTensors:
        return compressed();
      case Kind::kMarlin:
      case Kind::kSparseMarlin:
        return marlin();
    }
    return {};
  }

 private:
  Grid gptq() {
    const auto [words, columns] = matrix(".qweight");
    Grid grid = grid_of(words * pack_, columns);
    const std::vector<uint32_t> q = ints(".qweight", {words, columns});
    for (int k = 0; k < grid.in; ++k) {
      for (int o = 0; o < grid.out; ++o)
        code(grid, k, o) = field(q, k / pack_, o, columns, k % pack_);
    }
    take_scales(grid, ".scales", false);
    if (find(".qzeros")) {
      const std::vector<uint32_t> z = ints(".qzeros", {grid.group_count(), packed(grid.out)});
      set_zeros(grid, [&](int g, int o) {
        return field(z, g, o / pack_, packed(grid.out), o % pack_) + int(scheme_.zeros_less_one);
      });
    }
    take_groups(grid, ".g_idx");
    return grid;
  }

  Grid awq() {
    const auto [rows, words] = matrix(".qweight");
    Grid grid = grid_of(rows, words * pack_);
    const std::vector<uint32_t> q = ints(".qweight", {rows, words});
    std::array<int, 8> place;  // of output i among its eight
    for (int i = 0; i < 8; ++i) place[size_t(kAwqOrder[size_t(i)])] = i;
    for (int k = 0; k < grid.in; ++k) {
      for (int o = 0; o < grid.out; ++o)
        code(grid, k, o) = field(q, k, o / 8, words, place[size_t(o % 8)]);
    }
    take_scales(grid, ".scales", false);
    const std::vector<uint32_t> z = ints(".qzeros", {grid.group_count(), words});
    set_zeros(grid,
              [&](int g, int o) { return int(field(z, g, o / 8, words, place[size_t(o % 8)])); });
    return grid;
  }

  Grid compressed() {
    const auto [rows, words] = matrix(".weight_packed");
    const std::vector<int64_t> shape = longs(".weight_shape", 2);
    if (shape[0] != rows || shape[1] <= int64_t(words - 1) * pack_ ||
        shape[1] > int64_t(words) * pack_)
      bad(".weight_shape", "does not fit weight_packed");
    Grid grid = grid_of(int(shape[1]), rows);
    const std::vector<uint32_t> q = ints(".weight_packed", {rows, words});
    for (int k = 0; k < grid.in; ++k) {
      for (int o = 0; o < grid.out; ++o)
        code(grid, k, o) = field(q, o, k / pack_, words, k % pack_);
    }
    take_scales(grid, ".weight_scale", true);
    if (find(".weight_zero_point")) {
      const int groups = grid.group_count();
      const std::vector<uint32_t> z = ints(".weight_zero_point", {packed(grid.out), groups});
      set_zeros(grid, [&](int g, int o) { return int(field(z, o / pack_, g, groups, o % pack_)); });
    }
    take_groups(grid, ".weight_g_idx");
    return grid;
  }

  Grid marlin() {
    const bool sparse = scheme_.kind == Kind::kSparseMarlin;
    const std::string_view part = main_part(scheme_.kind);
    const auto [rows, words] = matrix(part);
    if (words % 2 != 0) bad(part, "has an odd number of columns");
    tensor::MarlinLayer layer;
    const int64_t in = int64_t(rows) * (sparse ? 32 : 16);
    if (in > INT32_MAX) bad(part, "is larger than we can index");
    layer.in = int(in);
    layer.out = words / 2;
    layer.words = ints(part, {rows, words});
    if (sparse) {
      const SafetensorsTensor& t = shaped(".B_meta", Dtype::kI16, {rows, words});
      layer.indices.resize(t.data.size() / 2);
      std::memcpy(layer.indices.data(), t.data.data(), t.data.size());
    }
    layer.group = scheme_.group == -1 || scheme_.group >= layer.in ? -1 : scheme_.group;
    if (layer.group != -1 && layer.in % layer.group != 0) bad(part, "is no multiple of the group");
    layer.scales = floats(".s", {layer.group == -1 ? 1 : layer.in / layer.group, layer.out});
    return tensor::unpack_marlin(layer);
  }

  // ---- parts ----

  Grid grid_of(int in, int out) const {
    Grid grid;
    grid.in = in;
    grid.out = out;
    grid.bits = scheme_.bits;
    grid.group = scheme_.group == -1 ? in : std::min(scheme_.group, in);
    grid.codes.resize(size_t(in) * size_t(out));
    return grid;
  }
  static uint8_t& code(Grid& grid, int k, int o) {
    return grid.codes[size_t(k) * size_t(grid.out) + size_t(o)];
  }
  uint8_t field(const std::vector<uint32_t>& words, int row, int column, int columns,
                int place) const {
    const uint32_t word = words[size_t(row) * size_t(columns) + size_t(column)];
    return uint8_t(word >> (scheme_.bits * place) & ((1u << scheme_.bits) - 1));
  }
  int packed(int n) const { return (n + pack_ - 1) / pack_; }

  void take_scales(Grid& grid, std::string_view part, bool outputs_first) {
    const int groups = grid.group_count();
    grid.scales =
        outputs_first ? floats(part, {grid.out, groups}) : floats(part, {groups, grid.out});
    if (!outputs_first) return;
    std::vector<float> turned(grid.scales.size());
    for (int g = 0; g < groups; ++g) {
      for (int o = 0; o < grid.out; ++o)
        turned[size_t(g) * size_t(grid.out) + size_t(o)] =
            grid.scales[size_t(o) * size_t(groups) + size_t(g)];
    }
    grid.scales = std::move(turned);
  }

  template <class Zero>
  static void set_zeros(Grid& grid, const Zero& zero) {
    grid.zeros.resize(grid.scales.size());
    for (int g = 0; g < grid.group_count(); ++g) {
      for (int o = 0; o < grid.out; ++o)
        grid.zeros[size_t(g) * size_t(grid.out) + size_t(o)] = uint16_t(zero(g, o));
    }
  }

  // Absent, or the natural groups: no order.
  void take_groups(Grid& grid, std::string_view part) {
    if (!find(part)) return;
    const std::vector<uint32_t> groups = ints(part, {grid.in});
    bool natural = true;
    for (int k = 0; k < grid.in; ++k) {
      if (groups[size_t(k)] >= uint32_t(grid.group_count()))
        bad(part, "names group " + std::to_string(groups[size_t(k)]) + " of " +
                      std::to_string(grid.group_count()));
      natural = natural && int(groups[size_t(k)]) == k / grid.group;
    }
    if (!natural) grid.groups.assign(groups.begin(), groups.end());
  }

  // ---- tensors ----

  const SafetensorsTensor* find(std::string_view part) const {
    return weights_.find(prefix_ + std::string(part));
  }

  const SafetensorsTensor& shaped(std::string_view part, Dtype dtype,
                                  const std::vector<int>& shape) const {
    const SafetensorsTensor* t = find(part);
    if (!t) bad(part, "is missing");
    if (t->dtype != dtype) bad(part, "holds " + std::string(info(t->dtype).name) + " elements");
    check_shape(*t, part, shape);
    return *t;
  }
  void check_shape(const SafetensorsTensor& t, std::string_view part,
                   const std::vector<int>& shape) const {
    if (std::ranges::equal(t.shape, shape, [](uint64_t a, int b) { return a == uint64_t(b); }))
      return;
    std::string wanted;
    for (const int n : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(n);
    bad(part, "has not the shape [" + wanted + "] that the other tensors ask for");
  }

  std::vector<uint32_t> ints(std::string_view part, const std::vector<int>& shape) const {
    const SafetensorsTensor& t = shaped(part, Dtype::kI32, shape);
    std::vector<uint32_t> values(t.data.size() / 4);
    std::memcpy(values.data(), t.data.data(), t.data.size());
    return values;
  }
  std::vector<int64_t> longs(std::string_view part, int n) const {
    const SafetensorsTensor& t = shaped(part, Dtype::kI64, {n});
    std::vector<int64_t> values(static_cast<size_t>(n));
    std::memcpy(values.data(), t.data.data(), t.data.size());
    return values;
  }
  std::vector<float> floats(std::string_view part, const std::vector<int>& shape) const {
    const SafetensorsTensor* t = find(part);
    if (!t) bad(part, "is missing");
    check_shape(*t, part, shape);
    std::vector<float> values(t->elements());
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t two;
      switch (t->dtype) {
        case Dtype::kF32:
          std::memcpy(&values[i], t->data.data() + 4 * i, 4);
          break;
        case Dtype::kF16:
          std::memcpy(&two, t->data.data() + 2 * i, 2);
          values[i] = half_to_float(two);
          break;
        case Dtype::kBF16:
          std::memcpy(&two, t->data.data() + 2 * i, 2);
          values[i] = bfloat16_to_float(two);
          break;
        default:
          bad(part, "holds " + std::string(info(t->dtype).name) + " elements");
      }
    }
    return values;
  }

  // The two sizes of a layer's main tensor, such that what they unpack to can be indexed.
  std::pair<int, int> matrix(std::string_view part) const {
    const SafetensorsTensor* t = find(part);
    if (!t) bad(part, "is missing");
    if (t->shape.size() != 2 || t->shape[0] < 1 || t->shape[1] < 1) bad(part, "is no matrix");
    if (t->shape[0] > uint64_t(INT32_MAX / pack_) || t->shape[1] > uint64_t(INT32_MAX / pack_))
      bad(part, "is larger than we can index");
    return {int(t->shape[0]), int(t->shape[1])};
  }

  [[noreturn]] void bad(std::string_view part, const std::string& what) const {
    throw Error(ErrorKind::kBadFile, weights_.name() + ": tensor " +
                                         shown(prefix_ + std::string(part)) + ": " + what +
                                         "; the layer cannot be read, export the model again");
  }

  const Safetensors& weights_;
  const QuantisedScheme& scheme_;
  const std::string& prefix_;
  const int pack_;
};

}  // namespace

std::string_view name(QuantisedScheme::Kind kind) {
  switch (kind) {
    case Kind::kGptq:
      return "GPTQ";
    case Kind::kAwq:
      return "AWQ";
    case Kind::kCompressedTensors:
      return "compressed-tensors";
    case Kind::kMarlin:
      return "MARLIN";
    case Kind::kSparseMarlin:
      return "Sparse-MARLIN";
  }
  return {};
}

QuantisedScheme parse_quantised_scheme(const json& config, const std::string& place) {
  return SchemeReader(config, place).read();
}

std::optional<QuantisedScheme> quantised_scheme(const ModelFolder& folder) {
  constexpr const char* kOlder = "quantize_config.json";
  const json& config = folder.config();
  if (const auto it = config.find("quantization_config"); it != config.end() && !it->is_null())
    return parse_quantised_scheme(
        *it, (folder.path() / "config.json").string() + ": key \"quantization_config\"");
  const auto text = folder.text(kOlder);
  if (!text) return std::nullopt;
  const std::string place = (folder.path() / kOlder).string();
  json older = parse_json(*text, place);
  // AutoGPTQ's own file does not name its method.
  if (older.is_object() && !older.contains("quant_method")) older["quant_method"] = "gptq";
  return parse_quantised_scheme(older, place);
}

std::vector<std::string> quantised_layers(const Safetensors& weights,
                                          const QuantisedScheme& scheme) {
  const std::string_view part = main_part(scheme.kind);
  std::vector<std::string> names;
  for (const SafetensorsTensor& t : weights.tensors()) {
    if (t.name.ends_with(part)) names.push_back(t.name.substr(0, t.name.size() - part.size()));
  }
  return names;
}

std::vector<std::string> layer_parts(const QuantisedScheme& scheme, const std::string& prefix) {
  std::vector<std::string> names;
  for (const std::string_view part : parts(scheme.kind))
    names.push_back(prefix + std::string(part));
  return names;
}

tensor::Grid read_layer(const Safetensors& weights, const QuantisedScheme& scheme,
                        const std::string& prefix) {
  return LayerReader(weights, scheme, prefix).read();
}

}  // namespace tutti::formats
