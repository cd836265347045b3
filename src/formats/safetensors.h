// Safetensors files, single or sharded through an index: read through memory maps, and written.
// Source: the safetensors format (sheet 00-serving section 7): u64 header length, a JSON header
// {name: {dtype, shape, data_offsets}}, then the data without holes. Files are hostile.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace tutti::formats {

enum class Dtype {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2,
};

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;  // as the header spells it: "F8_E4M3"
  size_t bytes;           // of one element
};

const DtypeInfo& info(Dtype dtype);
const DtypeInfo* find_dtype(std::string_view name);  // null when it is none that we read

struct SafetensorsTensor {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<uint64_t> shape;  // slowest first, as PyTorch prints it; empty for a scalar
  std::span<const std::byte>
      data;  // little-endian, not aligned; in the map, or given by the caller

  uint64_t elements() const;
};

class Safetensors {
 public:
  // A .safetensors file, or a ....safetensors.index.json with the shards beside it.
  // Throws Error(kNotFound | kBadFile | kUnsupported).
  static Safetensors open(const std::filesystem::path& path);
  // One file held in memory; `name` stands for it in errors. The bytes must outlive the result.
  static Safetensors parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& name() const { return name_; }
  // In the order of the data; shard after shard.
  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  // The header's "__metadata__"; of a sharded model, that of its shards together (first wins).
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  const SafetensorsTensor* find(std::string_view name) const;
  const SafetensorsTensor& tensor(std::string_view name) const;  // Error(kBadFile) when absent
  // What the tensors lie in: a map per shard, none for what was parsed from memory.
  const std::vector<std::shared_ptr<MappedFile>>& files() const { return files_; }

 private:
  static Safetensors open_file(const std::filesystem::path& path);
  static Safetensors open_sharded(const std::filesystem::path& path);

  std::string name_;
  std::vector<SafetensorsTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, size_t, std::less<>> index_;
  std::vector<std::shared_ptr<MappedFile>> files_;
};

// The "weight_map" of an index: tensor name -> shard's file name, which is a plain name of a
// .safetensors file (never a path). Throws Error(kBadFile).
std::map<std::string, std::string> parse_weight_map(std::string_view text, const std::string& name);

// Writes the tensors in the given order, atomically. Error(kUsage) when a name is empty, taken or
// "__metadata__", or when data and shape disagree; Error(kSystem).
void write_safetensors(const std::filesystem::path& path,
                       const std::vector<SafetensorsTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});
void write_safetensors(const Sink& sink, const std::string& name,
                       const std::vector<SafetensorsTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace tutti::formats
