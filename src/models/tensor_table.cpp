#include "models/tensor_table.h"

#include <climits>

#include "base/error.h"
#include "formats/shown.h"

namespace tutti::models {
namespace {

std::string text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (const int64_t n : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(n);
  return out + "]";
}

// Without leading ones: a vector may be stored as a matrix of one row, and the other way round.
std::vector<int64_t> squeezed(std::vector<int64_t> shape) {
  while (shape.size() > 1 && shape.front() == 1) shape.erase(shape.begin());
  return shape;
}

}  // namespace

StoredTensor TensorTable::take(const std::string& name, const std::vector<int64_t>& shape) {
  StoredTensor tensor = take_if(name, shape);
  if (!tensor.empty()) return tensor;
  throw Error(ErrorKind::kBadFile,
              place_ + ": tensor \"" + name +
                  "\" is missing; the model is incomplete, fetch or export it again");
}

StoredTensor TensorTable::take_if(const std::string& name, const std::vector<int64_t>& shape) {
  const auto it = entries_.find(name);
  if (it == entries_.end()) return {};
  Entry& entry = it->second;
  if (!entry.unreadable.empty()) {
    throw Error(ErrorKind::kUnsupported, place_ + ": tensor \"" + name + "\" holds " +
                                             entry.unreadable +
                                             " elements; convert the model to F32, F16 or BF16");
  }
  if (squeezed(entry.shape) != squeezed(shape)) {
    throw Error(ErrorKind::kBadFile, place_ + ": tensor \"" + name + "\" has shape " +
                                         text(entry.shape) + ", but the configuration asks for " +
                                         text(shape) +
                                         "; the file and its configuration do not belong together");
  }
  StoredTensor tensor;
  int64_t rows = 1;
  bool fits = shape.back() <= INT_MAX;
  for (size_t d = 0; d + 1 < shape.size(); ++d) {
    fits = fits && !__builtin_mul_overflow(rows, shape[d], &rows) && rows <= INT_MAX;
  }
  if (!fits) {
    throw Error(ErrorKind::kUnsupported, place_ + ": tensor \"" + name + "\" of shape " +
                                             text(shape) + " is larger than we can index");
  }
  entry.taken = true;
  tensor.type = entry.type;
  tensor.rows = int(rows);
  tensor.cols = int(shape.back());
  tensor.data = entry.data;
  tensor.name = name;
  return tensor;
}

std::vector<int64_t> TensorTable::shape(const std::string& name) const {
  const auto it = entries_.find(name);
  return it == entries_.end() ? std::vector<int64_t>() : it->second.shape;
}

void TensorTable::ignore(const std::string& name) {
  const auto it = entries_.find(name);
  if (it != entries_.end()) it->second.taken = true;
}

void TensorTable::check_all_taken() const {
  for (const auto& [name, entry] : entries_) {
    if (entry.taken) continue;
    throw Error(ErrorKind::kUnsupported,
                place_ + ": tensor " + formats::shown(name) +
                    " is not known for this architecture; its model would run "
                    "wrongly without it, so it is refused");
  }
}

std::string TensorTable::first_with(const std::string& part) const {
  for (const auto& [name, entry] : entries_) {
    if (name.find(part) != std::string::npos) return name;
  }
  return {};
}

}  // namespace tutti::models
