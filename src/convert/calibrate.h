// The linear layers of a model put on a 4-bit grid, layer after layer: the inputs of each come from
// calibration text that has gone through the layers before it as they now are, quantised.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/pool.h"
#include "convert/convert_model.h"
#include "convert/gptq.h"
#include "convert/source.h"

namespace tutti::convert {

enum class GridMethod : uint8_t { kNearest, kGptq };

struct CalibrationOptions {
  GridMethod method = GridMethod::kGptq;
  GptqOptions gptq;  // kNearest reads the group alone
  int window = 512;  // tokens that see each other; >= 1
  int32_t bos = -1;  // >= 0: stands before each window's tokens, in place of its last one
};

// What became of one matrix. Errors are of its outputs on the calibration rows, relative to them;
// of the weights themselves where there is no calibration.
struct LinearReport {
  std::string name;  // GGUF's
  int out = 0, in = 0, group = 0;
  double error = 0, nearest_error = 0;
  float scale_low = 0, scale_median = 0, scale_high = 0;  // of its groups
};
// Told of each matrix when it is done: how many of how many.
using LinearDone = std::function<void(const LinearReport& report, int done, int total)>;

// `source` with every matrix inside its layers that `options` would make Q4_0 replaced by a grid
// with one half scale for each group of inputs (a multiple of 32), as Q4_0 blocks: groups of 64
// repeat their scale. Everything else stays for convert_model. `tokens` are cut into windows; the
// rest of the last window is left out unless there is no other; kNearest needs none. Computes in
// fp32 with the weights that are stored. Depends on the arguments only, not on workers or
// instruction set.
// Throws Error(kUsage) for a group that is no multiple of 32, for too little text, where no matrix
// becomes Q4_0; Error(kUnsupported) for models with experts; Error(kBadFile) for weights that are
// no numbers.
Source on_grid(const Source& source, const ConvertOptions& options,
               const CalibrationOptions& calibration, std::span<const int32_t> tokens,
               ComputePool& pool, const LinearDone& done = {});

}  // namespace tutti::convert
