#include "formats/gguf_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "base/error.h"
#include "formats/gguf_scalar.h"
#include "formats/shown.h"

namespace tutti::formats {
namespace {

constexpr uint64_t kLongestKey = 65535;                  // the specification's
constexpr uint64_t kLongestTensorName = 64;              // the specification's
constexpr uint64_t kLongestString = uint64_t(64) << 20;  // far above any chat template
constexpr uint64_t kMostDims = 4;
constexpr uint64_t kLargestAlignment = uint64_t(1) << 20;
constexpr int kDeepestArray = 4;

// Fewest bytes that one record can take: bounds every count by the bytes that are left.
constexpr uint64_t kSmallestPair = 8 + 1 + 4 + 1;  // key length, key, type, u8
constexpr uint64_t kSmallestTensor =
    8 + 1 + 4 + 8 + 4 + 8;  // name, dimension count, one dim, type, offset

constexpr const char* kDamaged = "; the file is damaged or cut short, fetch or export it again";
constexpr const char* kReexport = "; export it again with a current converter";

// Tensor types of other engines, so that an error can say more than a number.
std::string type_name(uint32_t id) {
  struct Known {
    uint32_t id;
    const char* name;
  };
  constexpr Known kKnown[] = {
      {4, "Q4_2"},      {5, "Q4_3"},      {9, "Q8_1"},      {10, "Q2_K"},    {11, "Q3_K"},
      {15, "Q8_K"},     {16, "IQ2_XXS"},  {17, "IQ2_XS"},   {18, "IQ3_XXS"}, {19, "IQ1_S"},
      {20, "IQ4_NL"},   {21, "IQ3_S"},    {22, "IQ2_S"},    {23, "IQ4_XS"},  {24, "I8"},
      {25, "I16"},      {26, "I32"},      {27, "I64"},      {28, "F64"},     {29, "IQ1_M"},
      {31, "Q4_0_4_4"}, {32, "Q4_0_4_8"}, {33, "Q4_0_8_8"}, {34, "TQ1_0"},   {35, "TQ2_0"},
      {39, "MXFP4"},    {40, "NVFP4"},
  };
  for (const Known& known : kKnown) {
    if (known.id == id) return std::to_string(id) + " (" + known.name + ")";
  }
  return std::to_string(id);
}

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, uint64_t file_size, const std::string& name)
      : bytes_(bytes), file_size_(file_size), name_(name) {}

  GgufHeader parse() {
    GgufHeader header;
    field_ = "header";
    if (bytes_.size() < 4 || read<uint32_t>() != kGgufMagic) {
      bad("does not start with \"GGUF\"; give a GGUF model file");
    }
    header.version = read<uint32_t>();
    check_version(header.version);
    const auto tensor_count = read<uint64_t>();
    const auto pair_count = read<uint64_t>();
    check_count("metadata pairs", pair_count, kSmallestPair);
    check_count("tensors", tensor_count, kSmallestTensor);

    read_metadata(header, pair_count);
    header.alignment = read_alignment(header.metadata);
    read_tensors(header, tensor_count);

    field_ = "data section";
    const uint64_t padding = (header.alignment - at_ % header.alignment) % header.alignment;
    header.data_offset = at_ + padding;
    check_extents(header);
    return header;
  }

 private:
  [[noreturn]] void fail(ErrorKind kind, const std::string& what) const {
    throw Error(kind, name_ + ": " + field_ + ": " + what);
  }
  [[noreturn]] void bad(const std::string& what) const { fail(ErrorKind::kBadFile, what); }

  uint64_t left() const { return bytes_.size() - at_; }

  std::span<const std::byte> take(uint64_t n) {
    if (n > left()) {
      bad("needs " + std::to_string(n) + " bytes at offset " + std::to_string(at_) + ", but only " +
          std::to_string(left()) + " are left" + kDamaged);
    }
    const auto result = bytes_.subspan(at_, n);
    at_ += n;
    return result;
  }

  template <typename T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }

  void check_count(const char* what, uint64_t count, uint64_t smallest) const {
    if (count > left() / smallest) {
      bad("claims " + std::to_string(count) + " " + what + ", more than its " +
          std::to_string(left()) + " remaining bytes can hold" + kDamaged);
    }
  }

  void check_version(uint32_t version) const {
    if (version == 2 || version == 3) return;
    const std::string number = std::to_string(version);
    if (version != 0 && (version & 0xffffu) == 0) {
      fail(ErrorKind::kUnsupported,
           "is big-endian; convert it to little-endian (gguf-convert-endian of the gguf package)");
    }
    if (version == 1)
      fail(ErrorKind::kUnsupported, "version 1 is not read" + std::string(kReexport));
    if (version == 0) bad("version 0 does not exist" + std::string(kDamaged));
    fail(ErrorKind::kUnsupported, "version " + number +
                                      " is newer than 3; use a newer program or "
                                      "export the model as version 3");
  }

  std::string read_string(uint64_t longest) {
    const auto length = read<uint64_t>();
    if (length > longest) {
      bad("a string claims " + std::to_string(length) + " bytes; at most " +
          std::to_string(longest) + " are read" + kDamaged);
    }
    const auto bytes = take(length);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  // Keys and tensor names: not empty, no control characters (they would be cut at a NUL elsewhere).
  std::string read_name(uint64_t longest) {
    std::string text = read_string(longest);
    if (text.empty()) bad("is empty; every key and tensor needs a name" + std::string(kDamaged));
    const auto is_control = [](char c) {
      return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    };
    if (std::any_of(text.begin(), text.end(), is_control)) {
      bad("the name " + shown(text) + " holds a control character" + kDamaged);
    }
    return text;
  }

  GgufType read_type() {
    const auto id = read<uint32_t>();
    if (id > uint32_t(GgufType::kF64)) {
      bad("value type " + std::to_string(id) + " does not exist (0 to 12 do)" + kDamaged);
    }
    return GgufType(id);
  }

  GgufValue read_value(GgufType type) {
    if (type == GgufType::kString) return GgufValue::string(read_string(kLongestString));
    if (type == GgufType::kArray) return GgufValue::array(read_array(1));
    const auto bytes = take(gguf_type_bytes(type));
    if (type == GgufType::kBool) check_bools(bytes);
    return load_scalar(type, bytes);
  }

  void check_bools(std::span<const std::byte> bytes) const {
    for (const std::byte b : bytes) {
      const int value = std::to_integer<int>(b);
      if (value > 1) bad("a bool is " + std::to_string(value) + ", not 0 or 1" + kDamaged);
    }
  }

  GgufArray read_array(int depth) {
    if (depth > kDeepestArray) {
      bad("arrays are nested deeper than " + std::to_string(kDeepestArray) + kDamaged);
    }
    GgufArray array;
    array.element = read_type();
    const auto count = read<uint64_t>();
    if (array.element == GgufType::kString) {
      check_count("strings", count, 8);
      array.strings.reserve(count);
      for (uint64_t i = 0; i < count; ++i) array.strings.push_back(read_string(kLongestString));
    } else if (array.element == GgufType::kArray) {
      check_count("arrays", count, 4 + 8);
      for (uint64_t i = 0; i < count; ++i) array.arrays.push_back(read_array(depth + 1));
    } else {
      const uint64_t width = gguf_type_bytes(array.element);
      check_count("array elements", count, width);
      const auto bytes = take(count * width);
      array.packed.assign(bytes.begin(), bytes.end());
      if (array.element == GgufType::kBool) check_bools(bytes);
    }
    return array;
  }

  void read_metadata(GgufHeader& header, uint64_t count) {
    std::unordered_set<std::string> seen;
    header.metadata.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      field_ = "metadata key " + std::to_string(i);
      std::string key = read_name(kLongestKey);
      field_ = "metadata " + shown(key);
      if (!seen.insert(key).second) bad("the key occurs twice" + std::string(kReexport));
      GgufValue value = read_value(read_type());
      header.metadata.emplace_back(std::move(key), std::move(value));
    }
  }

  uint64_t read_alignment(const GgufMetadata& metadata) {
    field_ = "metadata \"general.alignment\"";
    for (const auto& [key, value] : metadata) {
      if (key != "general.alignment") continue;
      if (value.type != GgufType::kU32) {
        bad("is " + std::string(gguf_type_name(value.type)) + ", not u32" + kReexport);
      }
      const uint64_t alignment = std::get<uint64_t>(value.value);
      if (!std::has_single_bit(alignment) || alignment < 8 || alignment > kLargestAlignment) {
        bad("is " + std::to_string(alignment) + ", not a power of two from 8 to " +
            std::to_string(kLargestAlignment) + kReexport);
      }
      return alignment;
    }
    return kGgufDefaultAlignment;
  }

  void read_tensors(GgufHeader& header, uint64_t count) {
    std::unordered_set<std::string> seen;
    header.tensors.reserve(count);
    uint64_t expected_offset = 0;
    for (uint64_t i = 0; i < count; ++i) {
      field_ = "tensor " + std::to_string(i);
      GgufTensor tensor;
      tensor.name = read_name(kLongestTensorName);
      field_ = "tensor " + shown(tensor.name);
      if (!seen.insert(tensor.name).second) bad("the name occurs twice" + std::string(kReexport));
      const uint64_t bytes = read_shape(tensor);
      tensor.offset = read<uint64_t>();
      if (tensor.offset != expected_offset) {
        bad("offset " + std::to_string(tensor.offset) + " leaves a hole or overlaps; " +
            std::to_string(expected_offset) + " was expected" + kReexport);
      }
      uint64_t end = 0;
      if (__builtin_add_overflow(tensor.offset, bytes, &end) ||
          __builtin_add_overflow(end, header.alignment - 1, &expected_offset)) {
        bad("the tensors' sizes overflow 64 bits" + std::string(kDamaged));
      }
      expected_offset &= ~(header.alignment - 1);
      header.tensors.push_back(std::move(tensor));
    }
  }

  // Dims and type; returns the bytes they ask for.
  uint64_t read_shape(GgufTensor& tensor) {
    const auto dims = read<uint32_t>();
    if (dims < 1 || dims > kMostDims) {
      bad("has " + std::to_string(dims) + " dimensions; 1 to 4 are read" + kDamaged);
    }
    int64_t elements = 1;
    for (uint32_t d = 0; d < dims; ++d) {
      const auto dim = read<uint64_t>();
      if (dim == 0) bad("dimension " + std::to_string(d) + " is 0" + kReexport);
      if (dim > uint64_t(std::numeric_limits<int64_t>::max()) ||
          __builtin_mul_overflow(elements, int64_t(dim), &elements)) {
        bad("its dimensions multiply to more than 2^63 elements" + std::string(kDamaged));
      }
      tensor.dims.push_back(dim);
    }
    const auto id = read<uint32_t>();
    const tensor::TypeInfo* info = tensor::find_type(id);
    if (!info) {
      fail(ErrorKind::kUnsupported, "tensor type " + type_name(id) +
                                        " is not read; quantise the model to Q4_0, Q4_1, Q5_0, "
                                        "Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, F16, BF16 or F32");
    }
    tensor.type = info->type;
    if (tensor.dims[0] % uint64_t(info->block) != 0) {
      bad("its rows of " + std::to_string(tensor.dims[0]) + " are no multiple of the " +
          std::to_string(info->block) + " elements of a " + std::string(info->name) + " block" +
          kReexport);
    }
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(uint64_t(elements) / uint64_t(info->block),
                               uint64_t(info->block_bytes), &bytes)) {
      bad("its size overflows 64 bits" + std::string(kDamaged));
    }
    return bytes;
  }

  void check_extents(const GgufHeader& header) {
    for (const GgufTensor& tensor : header.tensors) {
      uint64_t end = 0;
      if (__builtin_add_overflow(header.data_offset, tensor.offset, &end) ||
          __builtin_add_overflow(end, tensor.bytes(), &end) || end > file_size_) {
        field_ = "tensor " + shown(tensor.name);
        bad("its " + std::to_string(tensor.bytes()) + " bytes end behind the file's " +
            std::to_string(file_size_) + kDamaged);
      }
    }
  }

  std::span<const std::byte> bytes_;
  uint64_t file_size_;
  const std::string& name_;
  std::string field_;  // what is being read, for errors
  uint64_t at_ = 0;
};

}  // namespace

GgufHeader parse_gguf_header(std::span<const std::byte> bytes, uint64_t file_size,
                             const std::string& name) {
  return Parser(bytes, file_size, name).parse();
}

}  // namespace tutti::formats
