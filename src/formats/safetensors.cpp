#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>

#include "base/error.h"
#include "formats/json_text.h"
#include "formats/shown.h"

namespace tutti::formats {
namespace {

using nlohmann::json;

constexpr uint64_t kLongestHeader = 100'000'000;  // the format's own cap
constexpr uint64_t kLongestIndex = 100'000'000;
constexpr int kHeaderDepth = 8;
constexpr const char* kMetadata = "__metadata__";
constexpr const char* kDamaged = "; the file is damaged or cut short, fetch or export it again";

constexpr DtypeInfo kDtypes[] = {
    {Dtype::kF64, "F64", 8},   {Dtype::kF32, "F32", 4},        {Dtype::kF16, "F16", 2},
    {Dtype::kBF16, "BF16", 2}, {Dtype::kI64, "I64", 8},        {Dtype::kI32, "I32", 4},
    {Dtype::kI16, "I16", 2},   {Dtype::kI8, "I8", 1},          {Dtype::kU8, "U8", 1},
    {Dtype::kBool, "BOOL", 1}, {Dtype::kF8E4M3, "F8_E4M3", 1}, {Dtype::kF8E5M2, "F8_E5M2", 1},
};

[[noreturn]] void bad(const std::string& name, const std::string& what) {
  throw Error(ErrorKind::kBadFile, name + ": " + what);
}

// Bytes of a tensor; false when they overflow 64 bits.
bool byte_size(const std::vector<uint64_t>& shape, Dtype dtype, uint64_t& bytes) {
  bytes = info(dtype).bytes;
  // A zero dimension makes the product zero, but the others must not overflow before it does.
  for (const uint64_t dim : shape) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) return false;
  }
  return true;
}

struct Extent {
  uint64_t begin, end;
};

// One header entry. Fills dtype and shape, returns where the data lies.
Extent read_entry(const std::string& place, const json& entry, uint64_t data_bytes,
                  SafetensorsTensor& tensor) {
  if (!entry.is_object()) bad(place, std::string("its entry is no object") + kDamaged);
  for (const auto& [key, value] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      bad(place, "has the unknown field " + shown(key) + kDamaged);
    }
  }
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string())
    bad(place, std::string("has no dtype") + kDamaged);
  const DtypeInfo* known = find_dtype(dtype->get_ref<const std::string&>());
  if (!known) {
    throw Error(ErrorKind::kUnsupported, place + ": dtype " +
                                             shown(dtype->get_ref<const std::string&>()) +
                                             " is not read; convert the model to BF16, F16 or F32");
  }
  tensor.dtype = known->dtype;

  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array())
    bad(place, std::string("has no shape") + kDamaged);
  for (const json& dim : *shape) {
    if (!dim.is_number_unsigned())
      bad(place, std::string("a dimension is no whole number") + kDamaged);
    tensor.shape.push_back(dim.get<uint64_t>());
  }
  uint64_t bytes = 0;
  if (!byte_size(tensor.shape, tensor.dtype, bytes)) {
    bad(place, std::string("its shape overflows 64 bits") + kDamaged);
  }

  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    bad(place, std::string("data_offsets are no pair of whole numbers") + kDamaged);
  }
  const Extent extent{(*offsets)[0].get<uint64_t>(), (*offsets)[1].get<uint64_t>()};
  if (extent.begin > extent.end || extent.end > data_bytes) {
    bad(place, "data_offsets " + std::to_string(extent.begin) + " to " +
                   std::to_string(extent.end) + " leave the file's " + std::to_string(data_bytes) +
                   " bytes of data" + kDamaged);
  }
  if (extent.end - extent.begin != bytes) {
    bad(place, "data_offsets hold " + std::to_string(extent.end - extent.begin) +
                   " bytes, but dtype and shape need " + std::to_string(bytes) + kDamaged);
  }
  return extent;
}

void read_metadata(const std::string& name, const json& entry,
                   std::map<std::string, std::string>& metadata) {
  if (!entry.is_object()) bad(name, std::string("__metadata__ is no object") + kDamaged);
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) bad(name, "__metadata__ " + shown(key) + " is no string" + kDamaged);
    metadata.emplace(key, value.get_ref<const std::string&>());
  }
}

json read_header(std::span<const std::byte> bytes, const std::string& name, uint64_t& data_begin) {
  uint64_t length = 0;
  if (bytes.size() < sizeof(length))
    bad(name, std::string("is too short for a header length") + kDamaged);
  std::memcpy(&length, bytes.data(), sizeof(length));
  if (length > kLongestHeader) {
    bad(name, "claims a header of " + std::to_string(length) + " bytes; at most " +
                  std::to_string(kLongestHeader) + " are read; give a .safetensors file");
  }
  if (length > bytes.size() - sizeof(length)) {
    bad(name, "claims a header of " + std::to_string(length) + " bytes, but only " +
                  std::to_string(bytes.size() - sizeof(length)) + " follow" + kDamaged);
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof(length), length);
  if (!text.starts_with('{'))
    bad(name, std::string("its header does not start with '{'") + kDamaged);
  data_begin = sizeof(length) + length;
  return parse_json(text, name + ": header", kHeaderDepth);
}

}  // namespace

const DtypeInfo& info(Dtype dtype) { return kDtypes[size_t(dtype)]; }

const DtypeInfo* find_dtype(std::string_view name) {
  for (const DtypeInfo& known : kDtypes) {
    if (known.name == name) return &known;
  }
  return nullptr;
}

uint64_t SafetensorsTensor::elements() const {
  uint64_t product = 1;
  for (const uint64_t dim : shape) product *= dim;
  return product;
}

Safetensors Safetensors::parse(std::span<const std::byte> bytes, const std::string& name) {
  Safetensors file;
  file.name_ = name;
  uint64_t data_begin = 0;
  const json header = read_header(bytes, name, data_begin);
  const auto data = bytes.subspan(data_begin);

  struct Found {
    Extent extent;
    SafetensorsTensor tensor;
  };
  std::vector<Found> found;
  for (const auto& [key, entry] : header.items()) {
    if (key == kMetadata) {
      read_metadata(name, entry, file.metadata_);
      continue;
    }
    const std::string place = name + ": tensor " + shown(key);
    if (key.empty()) bad(place, std::string("has an empty name") + kDamaged);
    SafetensorsTensor tensor;
    tensor.name = key;
    const Extent extent = read_entry(place, entry, data.size(), tensor);
    tensor.data = data.subspan(extent.begin, extent.end - extent.begin);
    found.push_back({extent, std::move(tensor)});
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
    return std::tie(a.extent.begin, a.extent.end, a.tensor.name) <
           std::tie(b.extent.begin, b.extent.end, b.tensor.name);
  });
  uint64_t at = 0;
  for (Found& f : found) {
    if (f.extent.begin != at) {
      bad(name + ": tensor " + shown(f.tensor.name),
          "data_offsets begin at " + std::to_string(f.extent.begin) +
              (f.extent.begin < at ? ", inside another tensor that ends at "
                                   : ", behind a hole from ") +
              std::to_string(at) + kDamaged);
    }
    at = f.extent.end;
    file.index_.emplace(f.tensor.name, file.tensors_.size());
    file.tensors_.push_back(std::move(f.tensor));
  }
  if (at != data.size()) {
    bad(name,
        "has " + std::to_string(data.size() - at) + " bytes behind its last tensor" + kDamaged);
  }
  return file;
}

Safetensors Safetensors::open_file(const std::filesystem::path& path) {
  auto map = std::make_shared<MappedFile>(path);
  Safetensors file = parse(map->bytes(), path.string());
  file.files_.push_back(std::move(map));
  return file;
}

Safetensors Safetensors::open(const std::filesystem::path& path) {
  return path.extension() == ".json" ? open_sharded(path) : open_file(path);
}

Safetensors Safetensors::open_sharded(const std::filesystem::path& path) {
  const auto weight_map = parse_weight_map(read_file(path, kLongestIndex), path.string());
  Safetensors whole;
  whole.name_ = path.string();
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : weight_map) shards.insert(shard);
  std::map<std::string, std::string> found_in;
  for (const std::string& shard : shards) {
    const auto shard_path = path.parent_path() / shard;
    if (!std::filesystem::exists(shard_path)) {
      throw Error(ErrorKind::kNotFound, shard_path.string() +
                                            ": a shard that the index names is missing; fetch it "
                                            "into the same folder");
    }
    Safetensors part = open_file(shard_path);
    for (SafetensorsTensor& tensor : part.tensors_) {
      if (!whole.index_.emplace(tensor.name, whole.tensors_.size()).second) {
        bad(part.name_, "tensor " + shown(tensor.name) + ": is already in shard " +
                            found_in[tensor.name] + "; fetch or export the model again");
      }
      found_in[tensor.name] = shard;
      whole.tensors_.push_back(std::move(tensor));
    }
    whole.metadata_.merge(part.metadata_);
    for (auto& file : part.files_) whole.files_.push_back(std::move(file));
  }
  for (const auto& [tensor, shard] : weight_map) {
    const auto it = found_in.find(tensor);
    if (it == found_in.end() || it->second != shard) {
      bad(whole.name_, "weight_map: tensor " + shown(tensor) + " is not in " + shard +
                           "; index and shards are of different models, fetch them again");
    }
  }
  return whole;
}

const SafetensorsTensor* Safetensors::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const SafetensorsTensor& Safetensors::tensor(std::string_view name) const {
  if (const SafetensorsTensor* tensor = find(name)) return *tensor;
  bad(name_, "tensor " + shown(name) + ": is missing; the model is incomplete, fetch it again");
}

std::map<std::string, std::string> parse_weight_map(std::string_view text,
                                                    const std::string& name) {
  const json index = parse_json(text, name);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object() || map->empty()) {
    bad(name, std::string("weight_map: is missing or empty") + kDamaged);
  }
  std::map<std::string, std::string> result;
  for (const auto& [tensor, shard] : map->items()) {
    const auto* file = shard.get_ptr<const std::string*>();
    // A plain file name: anything else could point outside of the model's folder.
    if (!file || !file->ends_with(".safetensors") || file->starts_with('.') ||
        file->find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      bad(name, "weight_map: tensor " + shown(tensor) + " lies in " +
                    (file ? shown(*file) : "no file name") +
                    ", which is no name of a .safetensors file beside the index" + kDamaged);
    }
    result.emplace(tensor, *file);
  }
  return result;
}

namespace {

// The length and the header, written by hand so that tensors keep their order.
std::string make_header(const std::string& name, const std::vector<SafetensorsTensor>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  const auto refuse = [&](const SafetensorsTensor& tensor, const char* what) {
    throw Error(ErrorKind::kUsage,
                "cannot write " + name + ": tensor " + shown(tensor.name) + ": " + what);
  };
  std::string header = "{";
  const auto member = [&](const std::string& key) {
    if (header.size() > 1) header += ',';
    header += json(key).dump() + ':';
  };
  if (!metadata.empty()) {
    member(kMetadata);
    header += json(metadata).dump();
  }
  std::set<std::string_view> seen;
  uint64_t at = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    uint64_t bytes = 0;
    if (tensor.name.empty() || tensor.name == kMetadata) refuse(tensor, "the name is not allowed");
    if (!seen.insert(tensor.name).second) refuse(tensor, "the name occurs twice; rename one");
    if (!byte_size(tensor.shape, tensor.dtype, bytes) || bytes != tensor.data.size()) {
      refuse(tensor, "its data are not of the size that dtype and shape need");
    }
    member(tensor.name);
    json entry;
    entry["dtype"] = info(tensor.dtype).name;
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {at, at + bytes};
    header += entry.dump();
    at += bytes;
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');  // so that the data start aligned
  if (header.size() > kLongestHeader) {
    throw Error(ErrorKind::kUsage, "cannot write " + name + ": the header is longer than " +
                                       std::to_string(kLongestHeader) + " bytes; use shards");
  }
  return header;
}

void write_parts(const Sink& sink, const std::string& header,
                 const std::vector<SafetensorsTensor>& tensors) {
  const uint64_t length = header.size();
  sink(std::as_bytes(std::span(&length, 1)));
  sink(std::as_bytes(std::span(header)));
  for (const SafetensorsTensor& tensor : tensors) sink(tensor.data);
}

}  // namespace

void write_safetensors(const Sink& sink, const std::string& name,
                       const std::vector<SafetensorsTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::string header;
  try {
    header = make_header(name, tensors, metadata);
  } catch (const json::exception&) {  // the only one that text can cause
    throw Error(ErrorKind::kUsage,
                "cannot write " + name + ": a name or metadata text is not UTF-8; rename it");
  }
  write_parts(sink, header, tensors);
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<SafetensorsTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  write_file_atomically(
      path, [&](const Sink& sink) { write_safetensors(sink, path.string(), tensors, metadata); });
}

}  // namespace tutti::formats
