#include "formats/gguf_scalar.h"

#include <bit>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace tutti::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies in memory");

// Between single and double precision without arithmetic for a NaN, which would turn a signalling
// one into a quiet one and change the file.
double widen(uint32_t bits) {
  if ((bits & 0x7fffffffu) <= 0x7f800000u) return double(std::bit_cast<float>(bits));
  return std::bit_cast<double>((uint64_t(bits & 0x80000000u) << 32) | (uint64_t(0x7ff) << 52) |
                               (uint64_t(bits & 0x7fffffu) << 29));
}

uint32_t narrow(double value) {
  const auto bits = std::bit_cast<uint64_t>(value);
  if ((bits & 0x7fffffffffffffffu) <= (uint64_t(0x7ff) << 52)) {
    return std::bit_cast<uint32_t>(float(value));
  }
  const auto payload = uint32_t(bits >> 29) & 0x7fffffu;
  return (uint32_t(bits >> 32) & 0x80000000u) | 0x7f800000u | (payload ? payload : 0x400000u);
}

template <typename T>
T load(std::span<const std::byte> from) {
  T value;
  std::memcpy(&value, from.data(), sizeof(T));
  return value;
}

template <typename T>
void append(T value, std::vector<std::byte>& to) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

template <typename T>
const T& held(const GgufValue& value) {
  if (const T* v = std::get_if<T>(&value.value)) return *v;
  throw Error(ErrorKind::kUsage, "GGUF value: does not hold what its type " +
                                     std::string(gguf_type_name(value.type)) +
                                     " says; set type and value together");
}

template <typename T, typename Wide>
void append_checked(const GgufValue& value, std::vector<std::byte>& to) {
  const Wide wide = held<Wide>(value);
  if (wide < Wide(std::numeric_limits<T>::min()) || wide > Wide(std::numeric_limits<T>::max())) {
    throw Error(ErrorKind::kUsage, "GGUF value: " + std::to_string(wide) + " does not fit " +
                                       std::string(gguf_type_name(value.type)) +
                                       "; use a wider type");
  }
  append(T(wide), to);
}

[[noreturn]] void not_scalar() {
  throw Error(ErrorKind::kUsage, "GGUF value: its type has no fixed width; it is no scalar");
}

}  // namespace

GgufValue load_scalar(GgufType type, std::span<const std::byte> from) {
  switch (type) {
    case GgufType::kU8:
      return {type, uint64_t(load<uint8_t>(from))};
    case GgufType::kI8:
      return {type, int64_t(load<int8_t>(from))};
    case GgufType::kU16:
      return {type, uint64_t(load<uint16_t>(from))};
    case GgufType::kI16:
      return {type, int64_t(load<int16_t>(from))};
    case GgufType::kU32:
      return {type, uint64_t(load<uint32_t>(from))};
    case GgufType::kI32:
      return {type, int64_t(load<int32_t>(from))};
    case GgufType::kF32:
      return {type, widen(load<uint32_t>(from))};
    case GgufType::kBool:
      return {type, load<uint8_t>(from) != 0};
    case GgufType::kU64:
      return {type, load<uint64_t>(from)};
    case GgufType::kI64:
      return {type, load<int64_t>(from)};
    case GgufType::kF64:
      return {type, load<double>(from)};
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  not_scalar();
}

void store_scalar(const GgufValue& value, std::vector<std::byte>& to) {
  switch (value.type) {
    case GgufType::kU8:
      return append_checked<uint8_t, uint64_t>(value, to);
    case GgufType::kI8:
      return append_checked<int8_t, int64_t>(value, to);
    case GgufType::kU16:
      return append_checked<uint16_t, uint64_t>(value, to);
    case GgufType::kI16:
      return append_checked<int16_t, int64_t>(value, to);
    case GgufType::kU32:
      return append_checked<uint32_t, uint64_t>(value, to);
    case GgufType::kI32:
      return append_checked<int32_t, int64_t>(value, to);
    case GgufType::kF32:
      return append(narrow(held<double>(value)), to);
    case GgufType::kBool:
      return append(uint8_t(held<bool>(value)), to);
    case GgufType::kU64:
      return append(held<uint64_t>(value), to);
    case GgufType::kI64:
      return append(held<int64_t>(value), to);
    case GgufType::kF64:
      return append(held<double>(value), to);
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  not_scalar();
}

}  // namespace tutti::formats
