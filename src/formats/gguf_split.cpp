// Opening a model by path: one file, or every part of a split one.
#include <charconv>
#include <cstdio>
#include <set>

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/shown.h"

namespace tutti::formats {
namespace {

// "<stem>-00002-of-00005.gguf": part 2 (from 1) of 5.
struct PartName {
  std::string stem;
  uint32_t part = 0, count = 0;

  std::string of(uint32_t i) const {
    char suffix[64];
    std::snprintf(suffix, sizeof(suffix), "-%05u-of-%05u.gguf", i, count);
    return stem + suffix;
  }
};

std::optional<PartName> part_name(const std::string& file) {
  constexpr size_t kSuffix = sizeof("-00000-of-00000.gguf") - 1;
  if (file.size() <= kSuffix) return std::nullopt;
  PartName name;
  name.stem = file.substr(0, file.size() - kSuffix);
  const char* part = file.data() + name.stem.size() + 1;
  const char* count = part + 9;
  if (std::from_chars(part, part + 5, name.part).ptr != part + 5) return std::nullopt;
  if (std::from_chars(count, count + 5, name.count).ptr != count + 5) return std::nullopt;
  if (name.part < 1 || name.part > name.count || name.of(name.part) != file) return std::nullopt;
  return name;
}

[[noreturn]] void bad(const Gguf& file, const std::string& what) {
  throw Error(ErrorKind::kBadFile, file.name() + ": " + what);
}

void check_part(const Gguf& file, uint32_t part, uint32_t count) {
  const auto index = file.integer("split.no");
  const auto stated = file.integer("split.count");
  if (!index || !stated || *index != int64_t(part) - 1 || *stated != int64_t(count)) {
    const auto text = [](std::optional<int64_t> v) { return v ? std::to_string(*v) : "absent"; };
    bad(file, "metadata \"split.no\": is " + text(index) + " of \"split.count\" " + text(stated) +
                  ", but the name says part " + std::to_string(part) + " of " +
                  std::to_string(count) + "; give the parts the names they were made with");
  }
}

}  // namespace

Gguf Gguf::open(const std::filesystem::path& path) {
  const auto open_one = [](const std::filesystem::path& part) {
    auto map = std::make_shared<MappedFile>(part);
    Gguf file = parse(map->bytes(), part.string());
    file.files_.push_back(std::move(map));
    return file;
  };
  const auto name = part_name(path.filename().string());
  Gguf asked = open_one(path);
  if (!name || name->count == 1) {
    const int64_t count = asked.integer("split.count").value_or(1);
    if (count > 1) {
      bad(asked, "metadata \"split.count\": the file is one of " + std::to_string(count) +
                     " parts but is not named like one; rename the parts to "
                     "NAME-00001-of-0000N.gguf");
    }
    return asked;
  }

  check_part(asked, name->part, name->count);
  Gguf whole;
  for (uint32_t i = 1; i <= name->count; ++i) {
    const auto part_path = path.parent_path() / name->of(i);
    if (i != name->part && !std::filesystem::exists(part_path)) {
      throw Error(ErrorKind::kNotFound, part_path.string() + ": part " + std::to_string(i) +
                                            " of a split model is missing; fetch it into the same "
                                            "folder");
    }
    Gguf part = i == name->part ? std::move(asked) : open_one(part_path);
    check_part(part, i, name->count);
    if (i == 1) {
      whole = std::move(part);
    } else {
      whole.add_part(std::move(part));
    }
  }
  const auto tensors = whole.integer("split.tensors.count");
  if (tensors && *tensors != int64_t(whole.tensors_.size())) {
    bad(whole, "metadata \"split.tensors.count\": is " + std::to_string(*tensors) +
                   ", but the parts hold " + std::to_string(whole.tensors_.size()) +
                   " tensors; split the model again");
  }
  return whole;
}

}  // namespace tutti::formats
