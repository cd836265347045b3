// GGUF v2 and v3 model files: metadata and tensors, read through memory maps, and written back.
// Source: the GGUF specification (sheet 00-ar section 4). Files are hostile: every count, length
// and offset is checked before use, and every error names the file and the field.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/files.h"
#include "tensor/type.h"

namespace tutti::formats {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

std::string_view gguf_type_name(GgufType type);  // "u8", "array", ...
// Bytes of one stored value of a fixed-width type; 0 for strings and arrays.
size_t gguf_type_bytes(GgufType type);

struct GgufArray;

// One metadata value with its stored type, so that a file can be written back byte for byte.
// The variant holds: u8..u64 -> uint64_t, i8..i64 -> int64_t, f32 and f64 -> double (a NaN's
// payload is kept), bool -> bool, string -> std::string, array -> GgufArray.
struct GgufValue {
  GgufType type = GgufType::kU8;
  std::variant<uint64_t, int64_t, double, bool, std::string, std::shared_ptr<GgufArray>> value;

  static GgufValue u32(uint32_t v) { return {GgufType::kU32, uint64_t(v)}; }
  static GgufValue u64(uint64_t v) { return {GgufType::kU64, v}; }
  static GgufValue i32(int32_t v) { return {GgufType::kI32, int64_t(v)}; }
  static GgufValue f32(float v) { return {GgufType::kF32, double(v)}; }
  static GgufValue boolean(bool v) { return {GgufType::kBool, v}; }
  static GgufValue string(std::string v) { return {GgufType::kString, std::move(v)}; }
  static GgufValue array(GgufArray v);
  static GgufValue strings(std::vector<std::string> v);
  static GgufValue i32s(std::span<const int32_t> v);
  static GgufValue f32s(std::span<const float> v);
};

// An array keeps fixed-width elements packed as they are stored (a vocabulary has a quarter of a
// million of them). Exactly one of the three containers is used, the one of `element`.
struct GgufArray {
  GgufType element = GgufType::kU8;
  std::vector<std::byte> packed;     // numbers and bools, little-endian
  std::vector<std::string> strings;  // kString
  std::vector<GgufArray> arrays;     // kArray

  size_t size() const;
  // Element i as a value of type `element`. i < size().
  GgufValue at(size_t i) const;
};

struct GgufTensor {
  std::string name;
  std::vector<uint64_t> dims;  // 1 to 4 of them, fastest first: dims[0] is the row length
  tensor::Type type = tensor::Type::kF32;
  uint64_t offset = 0;              // within its file's data section
  std::span<const std::byte> data;  // in the map (reading) or given by the caller (writing)

  uint64_t elements() const;
  uint64_t rows() const { return elements() / dims[0]; }
  // Bytes that type and dims ask for. Meaningful for tensors that a reader returned or a writer
  // took.
  uint64_t bytes() const;
};

using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

// A model file, or all the parts of a split one.
class Gguf {
 public:
  // Opens `path`; for any part "-00001-of-0000N.gguf" opens all N, and then the metadata is that of
  // the first part. Throws Error(kNotFound | kBadFile | kUnsupported).
  static Gguf open(const std::filesystem::path& path);
  // Parses one file held in memory; `name` stands for it in errors. The bytes must outlive the
  // result. A part of a split file parses alone.
  static Gguf parse(std::span<const std::byte> bytes, const std::string& name);

  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  const std::string& name() const { return name_; }
  // In file order.
  const GgufMetadata& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

  const GgufValue* find(std::string_view key) const;
  const GgufTensor* find_tensor(std::string_view name) const;
  const GgufTensor& tensor(std::string_view name) const;  // Error(kBadFile) naming it when absent

  // Typed access. Integers of any width convert when they fit; a float key may be an integer.
  // `std::nullopt` when absent; Error(kBadFile) naming the key when the type is another. An empty
  // array is an empty list of any type.
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string> string(std::string_view key) const;
  std::optional<std::vector<std::string>> strings(std::string_view key) const;
  std::optional<std::vector<int64_t>> integers(std::string_view key) const;
  std::optional<std::vector<double>> numbers(std::string_view key) const;
  // What the tensors lie in: a map per part, none for what was parsed from memory.
  const std::vector<std::shared_ptr<MappedFile>>& files() const { return files_; }

 private:
  void add_part(Gguf&& part);
  [[noreturn]] void wrong_type(std::string_view key, const GgufValue& value,
                               std::string_view wanted) const;
  const GgufArray* find_array(std::string_view key, std::string_view wanted) const;

  uint32_t version_ = 3;
  uint64_t alignment_ = 32;
  std::string name_;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> key_index_, tensor_index_;
  std::vector<std::shared_ptr<MappedFile>> files_;
};

// Writes metadata and tensors in the given order (tensor offsets are recomputed from the alignment
// that `general.alignment` states, 32 without it). What the reader would refuse is refused here
// before a byte is written: Error(kUsage) naming `path` and the field. Version 3 unless told.
void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                const std::vector<GgufTensor>& tensors, uint32_t version = 3);
// The same into a sink; `name` stands for the file in errors.
void write_gguf(const Sink& sink, const std::string& name, const GgufMetadata& metadata,
                const std::vector<GgufTensor>& tensors, uint32_t version = 3);
// The same for data that is made while it is written: `data(i, sink)` appends the
// tensors[i].bytes() bytes of tensor i; called once for each tensor, in order. What it throws
// leaves no file.
using GgufTensorData = std::function<void(size_t index, const Sink& sink)>;
void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                const std::vector<GgufTensor>& tensors, const GgufTensorData& data,
                uint32_t version = 3);

}  // namespace tutti::formats
