#include "train/transfer_maps.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <span>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "check/guess_kind.h"
#include "formats/json_text.h"
#include "formats/safetensors.h"
#include "tensor/quantise.h"
#include "train/strict_object.h"

namespace tutti::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kMostOffsets = 16;
// Products with a state, and the sum of their squares in a norm, stay finite.
constexpr float kGreatest = 1e9f;

std::string hexadecimal(uint64_t number) {
  char text[24];
  std::snprintf(text, sizeof text, "%016" PRIx64, number);
  return text;
}

uint64_t parsed(const StrictObject& o, const std::string& text) {
  uint64_t number = 0;
  if (text.size() != 16 || std::sscanf(text.c_str(), "%16" SCNx64, &number) != 1)
    o.bad("model", "is no fingerprint of sixteen hexadecimal digits");
  return number;
}

std::vector<float> floats(const formats::Safetensors& file, const std::string& name,
                          const std::vector<uint64_t>& shape) {
  const formats::SafetensorsTensor& t = file.tensor(name);
  const auto bad = [&](const std::string& what) {
    throw Error(ErrorKind::kBadFile, file.name() + ": tensor " + name + " " + what);
  };
  if (t.shape != shape) {
    std::string wanted, found;
    for (const uint64_t n : shape) wanted += (wanted.empty() ? "" : " x ") + std::to_string(n);
    for (const uint64_t n : t.shape) found += (found.empty() ? "" : " x ") + std::to_string(n);
    bad("is " + found + ", but config.json makes it " + wanted);
  }
  const bool half = t.dtype == formats::Dtype::kF16;
  if (!half && t.dtype != formats::Dtype::kF32) bad("is neither F16 nor F32");
  std::vector<float> out(t.elements());
  tensor::dequantise(half ? tensor::Type::kF16 : tensor::Type::kF32, t.data, out);
  if (!std::ranges::all_of(out, [](float x) { return std::fabs(x) <= kGreatest; }))
    bad("holds a value that is not finite, or beyond 1e9");
  return out;
}

std::vector<std::vector<double>> read_acceptance(const nlohmann::json& value,
                                                 const std::string& place, size_t offsets) {
  const auto is_chance = [](const auto& v) {
    return v.is_number() && v.template get<double>() >= 0 && v.template get<double>() <= 1;
  };
  const auto is_line = [&](const auto& v) {
    return v.is_array() && v.size() == size_t(check::kGuessKinds) + 1 &&
           std::ranges::all_of(v, is_chance);
  };
  if (!value.is_array() || value.size() != offsets || !std::ranges::all_of(value, is_line)) {
    throw Error(ErrorKind::kBadFile, place + ": \"acceptance\" is no list of " +
                                         std::to_string(check::kGuessKinds + 1) +
                                         " chances for each offset");
  }
  return value.get<std::vector<std::vector<double>>>();
}

}  // namespace

uint64_t fingerprint(const models::Checkpoint& checkpoint) {
  const std::vector<float> norm = checkpoint.weights().output_norm.floats();
  return xxh64(std::as_bytes(std::span(norm)));
}

TransferMaps TransferMaps::read(const fs::path& folder) {
  const std::string place = (folder / "config.json").string();
  nlohmann::json value = formats::parse_json(read_file(place, size_t(1) << 20), place);
  nlohmann::json acceptance;  // a list of lists, which StrictObject does not know
  if (value.is_object() && value.contains("acceptance")) {
    acceptance = value["acceptance"];
    value.erase("acceptance");
  }
  StrictObject o(value, place);
  TransferMaps m;
  m.kind = o.choice("kind", {"linear", "medusa"}) == "medusa" ? Kind::kMedusa : Kind::kLinear;
  m.hidden = int(o.integer("hidden", 1, 1 << 16));
  m.layers = int(o.integer("layers", 1, 4096));
  m.vocab = int(o.integer("vocab", 1, 1 << 24));
  m.model = parsed(o, o.text("model"));
  m.refined = o.flag("refined", true);
  m.see_previous = o.flag("see_previous", true);
  const bool bias = o.flag("bias", false), shared = o.flag("shared", false);
  m.enter = o.integers("enter", 0, m.layers);
  if (m.enter.size() > kMostOffsets) o.bad("enter", "names more layers than there can be maps, 16");
  o.finish();
  if (!acceptance.is_null()) m.acceptance = read_acceptance(acceptance, place, m.enter.size());
  const formats::Safetensors file = formats::Safetensors::open(folder / "maps.safetensors");
  const uint64_t n = uint64_t(m.hidden);
  for (size_t i = 1; i <= (shared ? 1 : m.enter.size()); ++i) {
    const std::string name = "transfer." + std::to_string(i) + ".";
    m.maps.push_back({floats(file, name + "weight", {n, n}),
                      bias ? floats(file, name + "bias", {n}) : std::vector<float>()});
  }
  return m;
}

void TransferMaps::write(const fs::path& folder, bool half) const {
  const tensor::Type type = half ? tensor::Type::kF16 : tensor::Type::kF32;
  std::vector<std::vector<std::byte>> bytes;
  std::vector<formats::SafetensorsTensor> tensors;
  const uint64_t n = uint64_t(hidden);
  bytes.reserve(2 * maps.size());  // the tensors point into it
  const auto add = [&](const std::string& name, const std::vector<float>& values,
                       std::vector<uint64_t> shape) {
    if (values.empty()) return;
    if (half && std::ranges::any_of(values, [](float x) { return !(std::fabs(x) <= 65504.0f); })) {
      throw Error(ErrorKind::kUsage, name + ": has a number beyond fp16; write it as fp32");
    }
    bytes.emplace_back(values.size() * (half ? 2 : 4));
    tensor::quantise(type, values, bytes.back());
    formats::SafetensorsTensor t;
    t.name = name;
    t.dtype = half ? formats::Dtype::kF16 : formats::Dtype::kF32;
    t.shape = std::move(shape);
    t.data = bytes.back();
    tensors.push_back(std::move(t));
  };
  for (size_t i = 0; i < maps.size(); ++i) {
    const std::string name = "transfer." + std::to_string(i + 1) + ".";
    add(name + "weight", maps[i].weight, {n, n});
    add(name + "bias", maps[i].bias, {n});
  }
  Json config{{"kind", kind == Kind::kMedusa ? "medusa" : "linear"},
              {"hidden", hidden},
              {"layers", layers},
              {"vocab", vocab},
              {"model", hexadecimal(model)},
              {"enter", enter},
              {"bias", !maps.front().bias.empty()},
              {"shared", maps.size() == 1 && enter.size() > 1},
              {"refined", refined},
              {"see_previous", see_previous}};
  if (!acceptance.empty()) config["acceptance"] = acceptance;
  fs::create_directories(folder);
  formats::write_safetensors(folder / "maps.safetensors", tensors, {{"format", "pt"}});
  write_file_atomically(folder / "config.json", config.dump(1) + "\n");
}

void TransferMaps::check(const models::Checkpoint& checkpoint, const std::string& place) const {
  const models::Config& c = checkpoint.config();
  const auto differs = [&](const char* what, int here, int there) {
    if (here == there) return;
    throw Error(ErrorKind::kUsage, place + ": was trained for a model whose " + what + " is " +
                                       std::to_string(here) + ", this one's is " +
                                       std::to_string(there) + "; name the maps of this model");
  };
  differs("hidden size", hidden, c.hidden);
  differs("number of layers", layers, c.layers);
  differs("vocabulary", vocab, c.vocab);
  if (model != fingerprint(checkpoint)) {
    throw Error(ErrorKind::kUsage, place +
                                       ": was trained for another model of the same shape (the "
                                       "weights of the last norms differ); name the maps of this "
                                       "model");
  }
}

}  // namespace tutti::train
