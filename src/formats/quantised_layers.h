// Linear layers as GPTQ, AWQ, compressed-tensors, MARLIN and Sparse-MARLIN checkpoints hold them:
// several packed tensors for one matrix, read as a grid. Sources: AutoGPTQ and AutoAWQ as
// transformers and vLLM load them, the compressed-tensors package ("pack-quantized"),
// IST-DASLab/marlin and Sparse-Marlin. Files are hostile.
//
//   GPTQ                X.qweight i32 [in / pack, out] along inputs, X.qzeros i32 [groups, out /
//   pack] (zero - 1; in
//                       gptq_v2 the zero itself), X.scales [groups, out], X.g_idx i32 [in]; pack =
//                       32 / bits
//   AWQ                 X.qweight i32 [in, out / 8], X.qzeros i32 [groups, out / 8], both in the
//   order
//                       0 2 4 6 1 3 5 7 of outputs, X.scales [groups, out]
//   compressed-tensors  X.weight_packed i32 [out, in / pack], X.weight_scale [out, groups],
//   X.weight_shape i64 [2],
//                       X.weight_zero_point i32 [out / pack, groups], X.weight_g_idx i32 [in]
//   MARLIN              X.B i32 [in / 16, 2 out], X.s [groups, out]
//   Sparse-MARLIN       X.B_24 i32 [in / 32, 2 out], X.B_meta i16 [in / 32, 2 out], X.s [groups,
//   out]
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/model_folder.h"
#include "tensor/grid.h"

namespace tutti::formats {

struct QuantisedScheme {
  enum class Kind : uint8_t { kGptq, kAwq, kCompressedTensors, kMarlin, kSparseMarlin };
  Kind kind = Kind::kGptq;
  int bits = 4;                 // 4 or 8; of AWQ and the MARLINs 4
  int group = -1;               // inputs of a scale; -1: all of them
  bool zeros_less_one = false;  // stored zeros are one less than the zeros (gptq's first format)
};
std::string_view name(QuantisedScheme::Kind kind);

// What a config.json says under "quantization_config", or the older quantize_config.json; nullopt
// when neither says anything. Throws Error(kUnsupported | kBadFile) naming a method, format, number
// of bits or group that is not read.
std::optional<QuantisedScheme> quantised_scheme(const ModelFolder& folder);
// The same of one such object. `place` stands for the file.
QuantisedScheme parse_quantised_scheme(const nlohmann::json& config, const std::string& place);

// The names X of the layers that are quantised so, in the file's order.
std::vector<std::string> quantised_layers(const Safetensors& weights,
                                          const QuantisedScheme& scheme);
// The names of all tensors that layer `prefix` may have, with the MARLIN kernel's work space.
std::vector<std::string> layer_parts(const QuantisedScheme& scheme, const std::string& prefix);

// Layer `prefix`. Throws Error(kBadFile) naming a tensor that is missing, of another type or of a
// shape that does not fit the others, a group or zero out of range.
tensor::Grid read_layer(const Safetensors& weights, const QuantisedScheme& scheme,
                        const std::string& prefix);

}  // namespace tutti::formats
