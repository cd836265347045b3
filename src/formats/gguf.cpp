#include "formats/gguf.h"

#include "base/error.h"
#include "formats/gguf_header.h"
#include "formats/gguf_scalar.h"
#include "formats/shown.h"

namespace tutti::formats {
namespace {

template <typename T>
GgufValue packed(GgufType element, std::span<const T> values) {
  GgufArray array;
  array.element = element;
  const auto bytes = std::as_bytes(values);
  array.packed.assign(bytes.begin(), bytes.end());
  return GgufValue::array(std::move(array));
}

std::optional<int64_t> as_integer(const GgufValue& value) {
  if (const auto* v = std::get_if<int64_t>(&value.value)) return *v;
  if (const auto* v = std::get_if<uint64_t>(&value.value); v && *v <= uint64_t(INT64_MAX)) {
    return int64_t(*v);
  }
  return std::nullopt;
}

std::optional<double> as_number(const GgufValue& value) {
  if (const auto* v = std::get_if<double>(&value.value)) return *v;
  if (const auto* v = std::get_if<int64_t>(&value.value)) return double(*v);
  if (const auto* v = std::get_if<uint64_t>(&value.value)) return double(*v);
  return std::nullopt;
}

}  // namespace

std::string_view gguf_type_name(GgufType type) {
  switch (type) {
    case GgufType::kU8:
      return "u8";
    case GgufType::kI8:
      return "i8";
    case GgufType::kU16:
      return "u16";
    case GgufType::kI16:
      return "i16";
    case GgufType::kU32:
      return "u32";
    case GgufType::kI32:
      return "i32";
    case GgufType::kF32:
      return "f32";
    case GgufType::kBool:
      return "bool";
    case GgufType::kString:
      return "string";
    case GgufType::kArray:
      return "array";
    case GgufType::kU64:
      return "u64";
    case GgufType::kI64:
      return "i64";
    case GgufType::kF64:
      return "f64";
  }
  return "unknown";
}

size_t gguf_type_bytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

GgufValue GgufValue::array(GgufArray v) {
  return {GgufType::kArray, std::make_shared<GgufArray>(std::move(v))};
}

GgufValue GgufValue::strings(std::vector<std::string> v) {
  GgufArray result;
  result.element = GgufType::kString;
  result.strings = std::move(v);
  return array(std::move(result));
}

GgufValue GgufValue::i32s(std::span<const int32_t> v) { return packed(GgufType::kI32, v); }
GgufValue GgufValue::f32s(std::span<const float> v) { return packed(GgufType::kF32, v); }

size_t GgufArray::size() const {
  if (element == GgufType::kString) return strings.size();
  if (element == GgufType::kArray) return arrays.size();
  return packed.size() / gguf_type_bytes(element);
}

GgufValue GgufArray::at(size_t i) const {
  if (element == GgufType::kString) return GgufValue::string(strings[i]);
  if (element == GgufType::kArray) return GgufValue::array(arrays[i]);
  const size_t width = gguf_type_bytes(element);
  return load_scalar(element, std::span(packed).subspan(i * width, width));
}

uint64_t GgufTensor::elements() const {
  uint64_t product = 1;
  for (const uint64_t dim : dims) product *= dim;
  return product;
}

uint64_t GgufTensor::bytes() const {
  const tensor::TypeInfo& info = tensor::info(type);
  return elements() / uint64_t(info.block) * uint64_t(info.block_bytes);
}

Gguf Gguf::parse(std::span<const std::byte> bytes, const std::string& name) {
  GgufHeader header = parse_gguf_header(bytes, bytes.size(), name);
  Gguf file;
  file.version_ = header.version;
  file.alignment_ = header.alignment;
  file.name_ = name;
  file.metadata_ = std::move(header.metadata);
  file.tensors_ = std::move(header.tensors);
  for (size_t i = 0; i < file.metadata_.size(); ++i) file.key_index_[file.metadata_[i].first] = i;
  for (size_t i = 0; i < file.tensors_.size(); ++i) {
    GgufTensor& tensor = file.tensors_[i];
    tensor.data = bytes.subspan(header.data_offset + tensor.offset, tensor.bytes());
    file.tensor_index_[tensor.name] = i;
  }
  return file;
}

void Gguf::add_part(Gguf&& part) {
  for (GgufTensor& tensor : part.tensors_) {
    if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
      throw Error(ErrorKind::kBadFile,
                  part.name_ + ": tensor " + shown(tensor.name) +
                      ": is already in an earlier part; split the model again");
    }
    tensors_.push_back(std::move(tensor));
  }
  for (auto& file : part.files_) files_.push_back(std::move(file));
}

const GgufValue* Gguf::find(std::string_view key) const {
  const auto it = key_index_.find(key);
  return it == key_index_.end() ? nullptr : &metadata_[it->second].second;
}

const GgufTensor* Gguf::find_tensor(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const GgufTensor& Gguf::tensor(std::string_view name) const {
  if (const GgufTensor* tensor = find_tensor(name)) return *tensor;
  throw Error(ErrorKind::kBadFile, name_ + ": tensor " + shown(name) +
                                       ": is missing; the model is incomplete, export it again");
}

void Gguf::wrong_type(std::string_view key, const GgufValue& value, std::string_view wanted) const {
  std::string type(gguf_type_name(value.type));
  if (value.type == GgufType::kArray) {
    const auto& array = std::get<std::shared_ptr<GgufArray>>(value.value);
    type += " of " + std::string(gguf_type_name(array->element));
  }
  throw Error(ErrorKind::kBadFile, name_ + ": metadata " + shown(key) + ": is " + type + ", not " +
                                       std::string(wanted) + "; export the model again");
}

std::optional<int64_t> Gguf::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  const auto result = as_integer(*value);
  if (!result) wrong_type(key, *value, "an integer below 2^63");
  return result;
}

std::optional<double> Gguf::number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  const auto result = as_number(*value);
  if (!result) wrong_type(key, *value, "a number");
  return result;
}

std::optional<bool> Gguf::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (value->type != GgufType::kBool) wrong_type(key, *value, "a bool");
  return std::get<bool>(value->value);
}

std::optional<std::string> Gguf::string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (value->type != GgufType::kString) wrong_type(key, *value, "a string");
  return std::get<std::string>(value->value);
}

const GgufArray* Gguf::find_array(std::string_view key, std::string_view wanted) const {
  const GgufValue* value = find(key);
  if (!value) return nullptr;
  if (value->type != GgufType::kArray) wrong_type(key, *value, wanted);
  return std::get<std::shared_ptr<GgufArray>>(value->value).get();
}

std::optional<std::vector<std::string>> Gguf::strings(std::string_view key) const {
  const GgufArray* array = find_array(key, "an array of strings");
  if (!array) return std::nullopt;
  if (array->size() && array->element != GgufType::kString) {
    wrong_type(key, *find(key), "an array of strings");
  }
  return array->strings;
}

std::optional<std::vector<int64_t>> Gguf::integers(std::string_view key) const {
  const GgufArray* array = find_array(key, "an array of integers");
  if (!array) return std::nullopt;
  std::vector<int64_t> result;
  result.reserve(array->size());
  for (size_t i = 0; i < array->size(); ++i) {
    const auto element = as_integer(array->at(i));
    if (!element) wrong_type(key, *find(key), "an array of integers below 2^63");
    result.push_back(*element);
  }
  return result;
}

std::optional<std::vector<double>> Gguf::numbers(std::string_view key) const {
  const GgufArray* array = find_array(key, "an array of numbers");
  if (!array) return std::nullopt;
  std::vector<double> result;
  result.reserve(array->size());
  for (size_t i = 0; i < array->size(); ++i) {
    const auto element = as_number(array->at(i));
    if (!element) wrong_type(key, *find(key), "an array of numbers");
    result.push_back(*element);
  }
  return result;
}

}  // namespace tutti::formats
