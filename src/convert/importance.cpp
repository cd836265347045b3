#include "convert/importance.h"

#include <cmath>

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/shown.h"
#include "tensor/quantise.h"

namespace tutti::convert {
namespace {

std::vector<float> floats(const formats::GgufTensor& t) {
  std::vector<float> out(t.elements());
  tensor::dequantise(t.type, t.data, out);
  return out;
}

}  // namespace

Importance Importance::open(const std::filesystem::path& path) {
  const formats::Gguf file = formats::Gguf::open(path);
  Importance importance;
  importance.place_ = path.string();
  const auto bad = [&](const std::string& what) {
    throw Error(ErrorKind::kBadFile, path.string() + ": " + what +
                                         "; make the file with llama-imatrix in its GGUF form");
  };
  if (file.string("general.type") != "imatrix") bad("is no importance matrix");
  constexpr std::string_view kSums = ".in_sum2";
  for (const formats::GgufTensor& t : file.tensors()) {
    if (!t.name.ends_with(kSums)) continue;
    const std::string name = t.name.substr(0, t.name.size() - kSums.size());
    const formats::GgufTensor* counts = file.find_tensor(name + ".counts");
    if (!counts || counts->elements() != t.rows())
      bad("tensor " + formats::shown(name) + ": has no fitting counts");
    std::vector<float> values = floats(t);
    const std::vector<float> count = floats(*counts);
    const size_t columns = values.size() / count.size();
    for (size_t i = 0; i < values.size(); ++i) {
      const float n = count[i / columns];
      // An expert that was never asked: all its columns count the same.
      values[i] = n > 0 ? values[i] / n : 1.0f;
      if (!std::isfinite(values[i]) || values[i] < 0)
        bad("tensor " + formats::shown(name) + ": holds no sums of squares");
    }
    importance.by_name_.emplace(name, std::move(values));
  }
  if (importance.empty()) bad("holds no importances");
  return importance;
}

std::span<const float> Importance::of(const std::string& name, int64_t columns, int64_t parts,
                                      int64_t part) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return {};
  if (int64_t(found->second.size()) != columns * parts) {
    throw Error(ErrorKind::kBadFile,
                place_ + ": tensor " + formats::shown(name) + ": has " +
                    std::to_string(found->second.size()) + " importances where the model needs " +
                    std::to_string(columns * parts) + "; it is another model's");
  }
  return std::span(found->second).subspan(size_t(part * columns), size_t(columns));
}

}  // namespace tutti::convert
