// Which tensor of a converted model gets which type. The rules are llama.cpp's
// (src/llama-quant.cpp), for the architectures that run here, so that a file made here and one made
// there hold the same types:
//
// 1. Kept as stored (in F32 when they come from a folder): tensors of one dimension, names that do
// not end in
//    "weight", norms ("_norm.weight"), routers ("ffn_gate_inp.weight"); output.weight with
//    `leave_output`.
// 2. token_embd.weight gets `token_embedding`, output.weight gets `output`, where given.
// 3. Else the first override whose pattern is found in the name decides.
// 4. Else, for quantised file types that are not `pure`:
//    - output.weight, and token_embd.weight when the head is tied to it: `output` where given; Q8_0
//    when the row
//      is no multiple of the file type's block; otherwise Q6_K (Q8_0 in a Q8_0 file);
//    - attn_v: Q6_K in Q4_K_M and Q5_K_M files in the layers of `more bits` (below); Q5_K in the
//    first four layers
//      of Q4_K_S; Q5_K in a file of 80 layers with grouped queries where it would be Q4_K; Q8_0
//      with 8 experts;
//    - attn_k: Q8_0 with 8 experts;   attn_output: Q5_K in Q4_K_M and Q4_K_S with 8 experts;
//    - ffn_down (of every kind): Q6_K in Q4_K_M and Q5_K_M in the layers of `more bits`; Q5_K in
//    the first eighth of
//      the layers of Q4_K_S; with importances, Q4_1 (Q5_1) in the first eighth of Q4_0 (Q5_0);
//    - everything else: the file type's own.
//    Layers of `more bits`, of n: i < n/8, i >= 7n/8, or (i - n/8) % 3 == 2 (integer division).
// 5. A row that is no multiple of the type's block: Q4_K becomes Q5_0, Q5_K becomes Q5_1, Q6_K
// becomes Q8_0; if that
//    does not fit either, F16. This holds for types that were asked for by 2 and 3 too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "convert/file_type.h"
#include "text/regex.h"

namespace tutti::convert {

// A tensor to be typed.
struct TensorFacts {
  std::string name;            // GGUF's
  std::vector<uint64_t> dims;  // fastest first
  tensor::Type stored = tensor::Type::kF32;
};

// What the rules ask of a model.
struct ModelFacts {
  std::string architecture;  // GGUF's
  int layers = 0, heads = 0, kv_heads = 0;
  int experts = 0;           // 0: dense
  bool from_folder = false;  // kept tensors become F32
};

struct TypeRules {
  FileType file_type;
  bool pure = false;          // the file type's own type for every matrix
  bool leave_output = false;  // output.weight keeps its stored type
  bool importances = false;   // the conversion is given importances
  std::optional<tensor::Type> output, token_embedding;
  struct Override {
    text::Regex pattern;  // searched in the name
    tensor::Type type;
  };
  std::vector<Override> overrides;
};

struct TypeChoice {
  tensor::Type type = tensor::Type::kF32;
  std::optional<tensor::Type> wanted;  // what the row's length did not allow
};

// One choice for each tensor. Throws Error(kUsage) naming an override that no tensor matches.
std::vector<TypeChoice> choose_types(const TypeRules& rules, const ModelFacts& model,
                                     const std::vector<TensorFacts>& tensors);

// The layer of "blk.7.ffn_down.weight", or -1.
int layer_of(std::string_view name);

}  // namespace tutti::convert
