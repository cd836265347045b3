// Writes a model as a GGUF file of another type, tensor by tensor: in memory are the rows being
// worked on, never a model. The bytes depend on the input and the rules only, not on threads or
// instruction set.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/pool.h"
#include "convert/importance.h"
#include "convert/source.h"
#include "convert/tensor_types.h"

namespace tutti::convert {

struct ConvertOptions {
  TypeRules rules;
  bool allow_requantize = false;  // from one quantised type to another type
  bool force = false;             // replace an existing file
};

// Errors are over all elements, against what the input's blocks stand for.
struct TensorReport {
  std::string name;
  std::vector<uint64_t> dims;  // fastest first
  tensor::Type from = tensor::Type::kF32, to = tensor::Type::kF32;
  std::optional<tensor::Type> wanted;  // what the row's length did not allow
  uint64_t elements = 0, bytes_before = 0, bytes = 0;
  double square_error = 0, squares = 0;  // sums of (y - x)^2 and x^2
  double max_error = 0;
  bool copied = false;  // byte for byte

  double rms_error() const;
};

struct ConvertReport {
  std::vector<TensorReport> tensors;
  uint64_t elements = 0, bytes_before = 0, bytes = 0;  // of all tensors
  double square_error = 0, squares = 0;

  void add(const TensorReport& tensor);
  double bits_per_weight() const { return elements ? 8.0 * double(bytes) / double(elements) : 0; }
  // Root of the summed square errors over that of the summed squares.
  double relative_rms() const;
};

// Told after each slab of rows: the tensor at work, and how much of all stored bytes is done, 0..1.
using ConvertProgress = std::function<void(const TensorReport& tensor, double fraction)>;
// Told of each tensor when it is done.
using TensorDone = std::function<void(const TensorReport& tensor)>;

// What would be done; errors are zero.
ConvertReport plan_conversion(const Source& source, const ConvertOptions& options);

// Throws what convert_model would before it writes: for callers with long work before that.
void check_conversion(const Source& source, const std::filesystem::path& out,
                      const ConvertOptions& options);

// Writes `out` atomically. Throws Error(kUsage) when `out` is the input or exists (without
// `force`), when a quantised tensor would change its type (without `allow_requantize`), when an
// override matches nothing; Error(kBadFile) naming a tensor that holds what the type cannot (not a
// number, or beyond F16); Error(kSystem). Nothing is left behind then.
ConvertReport convert_model(const Source& source, const std::filesystem::path& out,
                            const ConvertOptions& options, const Importance& importance,
                            ComputePool& pool, const TensorDone& done = {},
                            const ConvertProgress& progress = {});

}  // namespace tutti::convert
