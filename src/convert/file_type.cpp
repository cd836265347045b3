#include "convert/file_type.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace tutti::convert {
namespace {

using tensor::Type;
using Mix = FileType::Mix;

constexpr std::array<FileType, 16> kFileTypes = {{
    {"F32", 0, Type::kF32, Mix::kNone, false, "32 bits a weight"},
    {"F16", 1, Type::kF16, Mix::kNone, false, "16 bits"},
    {"BF16", 32, Type::kBF16, Mix::kNone, false, "16 bits, the range of F32"},
    {"Q8_0", 7, Type::kQ8_0, Mix::kNone, false, "8.5 bits"},
    {"Q6_K", 18, Type::kQ6_K, Mix::kNone, false, "6.6 bits"},
    {"Q5_K_M", 17, Type::kQ5_K, Mix::kMedium, false, "5.5 bits, sensitive tensors in Q6_K"},
    {"Q5_K_S", 16, Type::kQ5_K, Mix::kSmall, false, "5.5 bits"},
    {"Q5_K", 17, Type::kQ5_K, Mix::kMedium, false, "another name of Q5_K_M"},
    {"Q5_1", 9, Type::kQ5_1, Mix::kNone, false, "6 bits"},
    {"Q5_0", 8, Type::kQ5_0, Mix::kNone, false, "5.5 bits"},
    {"Q4_K_M", 15, Type::kQ4_K, Mix::kMedium, false, "4.5 bits, sensitive tensors in Q6_K"},
    {"Q4_K_S", 14, Type::kQ4_K, Mix::kSmall, false,
     "4.5 bits, first layers' sensitive tensors in Q5_K"},
    {"Q4_K", 15, Type::kQ4_K, Mix::kMedium, false, "another name of Q4_K_M"},
    {"Q4_1", 3, Type::kQ4_1, Mix::kNone, false, "5 bits"},
    {"Q4_0", 2, Type::kQ4_0, Mix::kNone, false, "4.5 bits"},
    {"COPY", 0, Type::kF32, Mix::kNone, true, "every tensor as it is stored"},
}};

constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; }

}  // namespace

std::span<const FileType> file_types() { return kFileTypes; }

const FileType& file_type(std::string_view name) {
  std::string known;
  for (const FileType& t : kFileTypes) {
    if (std::ranges::equal(t.name, name, {}, lower, lower)) return t;
    known += (known.empty() ? "" : ", ") + std::string(t.name);
  }
  throw Error(ErrorKind::kUsage,
              "type \"" + std::string(name.substr(0, 40)) + "\": not known; known are " + known);
}

tensor::Type tensor_type(std::string_view name, std::string_view option) {
  if (const auto* found = tensor::find_type(name)) return found->type;
  std::string known;
  for (uint32_t id = 0; id < 64; ++id) {
    if (const auto* t = tensor::find_type(id))
      known += (known.empty() ? "" : ", ") + std::string(t->name);
  }
  throw Error(ErrorKind::kUsage, std::string(option) + ": the tensor type \"" +
                                     std::string(name.substr(0, 40)) +
                                     "\" is not known; known are " + known);
}

}  // namespace tutti::convert
