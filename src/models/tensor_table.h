// The tensors of a model file or folder by name, whichever format they came from, with a mark on
// those that the loader has taken: what is left over is a tensor that we do not know.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "models/stored_tensor.h"

namespace tutti::models {

class TensorTable {
 public:
  struct Entry {
    std::vector<int64_t> shape;  // outermost first, each >= 1
    tensor::Type type = tensor::Type::kF32;
    std::span<const std::byte> data;
    std::string unreadable;  // not empty: the name of an element type that we do not read
    bool taken = false;
  };

  // `place` is the file or folder, for errors.
  explicit TensorTable(std::string place) : place_(std::move(place)) {}

  const std::string& place() const { return place_; }
  size_t size() const { return entries_.size(); }
  void add(std::string name, Entry entry) {
    entries_.insert_or_assign(std::move(name), std::move(entry));
  }
  bool has(const std::string& name) const { return entries_.contains(name); }

  // Takes the tensor of that name. `shape` is what the configuration asks for (outermost first;
  // vectors may be stored with leading ones). More than two dimensions come back as rows of the
  // last one. Throws Error(kBadFile | kUnsupported) naming a tensor that is missing, of another
  // shape or unreadable.
  StoredTensor take(const std::string& name, const std::vector<int64_t>& shape);
  // The same, but empty when there is none.
  StoredTensor take_if(const std::string& name, const std::vector<int64_t>& shape);
  // The stored shape, outermost first; empty when absent.
  std::vector<int64_t> shape(const std::string& name) const;
  // Marks a tensor that is known to be redundant.
  void ignore(const std::string& name);
  // Throws Error(kUnsupported) naming the first tensor that nobody has taken.
  void check_all_taken() const;
  // The first name that contains `part`, or an empty string.
  std::string first_with(const std::string& part) const;

  template <class Predicate>
  void ignore_if(const Predicate& predicate) {
    for (auto& [name, entry] : entries_) {
      if (predicate(name)) entry.taken = true;
    }
  }

 private:
  std::string place_;
  std::map<std::string, Entry> entries_;
};

}  // namespace tutti::models
