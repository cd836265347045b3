#include "tensor/type.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"

namespace tutti::tensor {
namespace {

constexpr std::array<TypeInfo, 11> kTypes = {{
    {Type::kF32, "F32", 1, 4, false},
    {Type::kF16, "F16", 1, 2, false},
    {Type::kQ4_0, "Q4_0", 32, 18, true},
    {Type::kQ4_1, "Q4_1", 32, 20, true},
    {Type::kQ5_0, "Q5_0", 32, 22, true},
    {Type::kQ5_1, "Q5_1", 32, 24, true},
    {Type::kQ8_0, "Q8_0", 32, 34, true},
    {Type::kQ4_K, "Q4_K", 256, 144, true},
    {Type::kQ5_K, "Q5_K", 256, 176, true},
    {Type::kQ6_K, "Q6_K", 256, 210, true},
    {Type::kBF16, "BF16", 1, 2, false},
}};

constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; }

}  // namespace

const TypeInfo* find_type(uint32_t id) {
  for (const TypeInfo& t : kTypes) {
    if (uint32_t(t.type) == id) return &t;
  }
  return nullptr;
}

const TypeInfo* find_type(std::string_view name) {
  for (const TypeInfo& t : kTypes) {
    if (std::ranges::equal(t.name, name, {}, lower, lower)) return &t;
  }
  return nullptr;
}

const TypeInfo& info(Type type) {
  const TypeInfo* found = find_type(uint32_t(type));
  if (!found) {
    throw Error(ErrorKind::kUnsupported,
                "tensor type " + std::to_string(uint32_t(type)) + ": not one that can be read");
  }
  return *found;
}

size_t row_bytes(Type type, int64_t n) {
  const TypeInfo& t = info(type);
  if (n < 0 || n % t.block != 0) {
    throw Error(ErrorKind::kBadFile, std::string(t.name) + " row of " + std::to_string(n) +
                                         " elements: not a multiple of its block of " +
                                         std::to_string(t.block));
  }
  return size_t(n / t.block) * size_t(t.block_bytes);
}

}  // namespace tutti::tensor
