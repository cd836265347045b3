// Importance matrices: for each column of a weight, the mean square of what it met in a calibration
// run. Source: llama.cpp's `llama-imatrix` in its GGUF form ("general.type" is "imatrix"; tensors
// NAME.in_sum2 [columns, matrices] and NAME.counts [1, matrices]).
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace tutti::convert {

class Importance {
 public:
  Importance() = default;  // of nothing
  // Throws Error(kNotFound | kBadFile) naming the file and the tensor.
  static Importance open(const std::filesystem::path& path);

  bool empty() const { return by_name_.empty(); }
  // Of the rows of matrix `part` of `parts` stacked ones, `columns` long; empty when the file does
  // not know the tensor. Throws Error(kBadFile) when it has another shape there.
  std::span<const float> of(const std::string& name, int64_t columns, int64_t parts,
                            int64_t part) const;

 private:
  std::string place_;
  std::map<std::string, std::vector<float>, std::less<>> by_name_;
};

}  // namespace tutti::convert
