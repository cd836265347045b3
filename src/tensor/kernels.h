// The compute kernels, as a table of functions per instruction set. Every level gives the same bits
// as the scalar one; the order of every sum is fixed (DESIGN section 4) and depends neither on the
// number of rows nor on threads. All pointers are to valid memory of the stated shape; nothing here
// allocates or throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/philox.h"
#include "tensor/kv.h"
#include "tensor/matrix.h"

namespace tutti::tensor {

// Ascending. kAvxVnni is AVX2 with the 256-bit VPDPBUSD of AVX-VNNI, kAmx is AVX-512 with tiles of
// int8.
enum class Isa : uint8_t { kScalar, kAvx2, kAvxVnni, kAvx512, kAmx };

std::string_view name(Isa isa);
// Levels this machine can run, ascending; the scalar level is always there.
std::vector<Isa> available_isas();

// Activations quantised for one block size. Row r: q[r*n ..], scales[r*blocks ..];
// sums[r*sums_stride ..]. d_a = amax/127, q = round_even(x * (127/amax)), clamped to +-127; amax 0
// gives d_a 0 and q 0.
struct QuantisedRows {
  int block = 32;  // 32, 256 (K-quants) or n (w8a8-row)
  int n = 0;       // elements per row
  int8_t* q = nullptr;
  float* scales = nullptr;  // [rows][n / block]
  int32_t* sums = nullptr;  // [rows][n / 16]: sum of each 16 q's (block sums are sums of these)
};

enum class Activation : uint8_t { kSilu, kGeluTanh, kGelu, kRelu };

// Softmax class c: scores are multiplied by `inverse_temperature` before exp; the class's
// log-sum-exp is multiplied by `lse_scale` when classes are merged. Class {1, 1} is ordinary
// attention.
struct SoftmaxClass {
  float inverse_temperature = 1.0f;
  float lse_scale = 1.0f;
  bool operator==(const SoftmaxClass&) const = default;
};
inline constexpr int kMaxSoftmaxClasses = 4;

struct AttendParams {
  const std::byte* const* pages = nullptr;  // page id -> its memory
  KvLayout layout;
  int layer = 0;
  int kv_head = 0;
  int group = 1;       // query heads of this KV head
  float scale = 1.0f;  // head_dim^-0.5 or the model's own
  float cap = 0.0f;    // > 0: score = cap * tanh(score / cap), before the class temperature
  SoftmaxClass classes[kMaxSoftmaxClasses];
  int class_count = 1;  // classes above 0 may occur in runs only below this count
  // `scratch` of attend comes with [group][keys] terms, keys in View order, that are added to the
  // dot products before the scale. Not with attend_shared.
  bool added = false;
};

// One of the rows that share slots: its query heads [group][head_dim] of the KV head, its runs, its
// output.
struct AttendRow {
  const float* q = nullptr;
  const KvRun* runs = nullptr;
  int run_count = 0;
  float* out = nullptr;
};
// The most rows of one attend_shared call.
inline constexpr int kMaxSharedRows = 8;

// Facts about one row of logits, in one pass over the vocabulary.
struct VocabStats {
  int best = -1;         // argmax, lowest id on ties; -1 when every logit is -inf or NaN
  float max = 0;         // its logit
  int second = -1;       // the runner-up
  float second_max = 0;  // its logit
  float lse = 0;         // log sum exp(x * inverse_temperature)
  float entropy = 0;     // of softmax(x * inverse_temperature), in nats
};

struct Kernels {
  Isa isa;

  // Quantises `rows` rows of n floats (row stride `stride` floats) into `out`, starting at out row
  // `first`.
  void (*quantise)(const float* x, size_t stride, int rows, const QuantisedRows& out, int first);

  // y[r][t*16 + lane] for tiles [tile_first, tile_last) and rows [0, rows). Outputs beyond w.out()
  // in the last tile are not written. y's row stride is `y_stride` floats.
  void (*matmul_quantised)(const Matrix& w, const QuantisedRows& x, int rows, int tile_first,
                           int tile_last, float* y, size_t y_stride);
  // The same for dense weights and fp32 activations; also for Q4_0 weights, each widened to the
  // fp32 number that its block stands for.
  void (*matmul_dense)(const Matrix& w, const float* x, size_t x_stride, int rows, int tile_first,
                       int tile_last, float* y, size_t y_stride);

  // The same for a matrix of the class w8a8-row; x has one block of w.in() elements per row:
  // y = float(sum of q_w * q_a) * (d_w * d_a).
  void (*matmul_w8a8)(const Matrix& w, const QuantisedRows& x, int rows, int tile_first,
                      int tile_last, float* y, size_t y_stride);
  // n floats rounded to bf16, ties to even, and zeros up to the next multiple of 32.
  void (*round_bf16)(const float* x, int n, uint16_t* out);
  // The same for a matrix of the class bf16-dot and rows of round_bf16: over pairs of k ascending,
  // from 0, y = fma(w[2i + 1], x[2i + 1], y), then y = fma(w[2i], x[2i], y), where subnormal
  // operands count as zeros of their sign and so do results that are subnormal after rounding to 24
  // bits: what Intel documents for VDPBF16PS.
  void (*matmul_bf16)(const Matrix& w, const uint16_t* x, size_t x_stride, int rows, int tile_first,
                      int tile_last, float* y, size_t y_stride);

  // y = x * (1 / sqrt(mean(x^2) + eps)) * weight. y may be x.
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* y);
  // y = (x - mean(x)) * (1 / sqrt(mean((x - mean(x))^2) + eps)) * weight + bias. y may be x.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int n,
                     float* y);
  // Rotates `heads` heads of head_dim floats in place, the first 2*pairs dimensions of each;
  // cos_sin holds pairs cosines, then pairs sines. interleaved: pairs (2i, 2i+1); else half-split:
  // (i, i + pairs).
  void (*rope)(float* x, int heads, int head_dim, int pairs, bool interleaved,
               const float* cos_sin);
  void (*add)(const float* x, int n, float* y);                  // y += x
  void (*add_scaled)(float a, const float* x, int n, float* y);  // y = fma(a, x, y)
  void (*scale)(float a, int n, float* y);                       // y *= a
  void (*gated)(Activation act, const float* gate, const float* up, int n,
                float* y);                            // act(gate) * up
  void (*activate)(Activation act, int n, float* x);  // x = act(x)
  void (*soft_cap)(float cap, int n, float* x);       // x = cap * tanh(x / cap)
  // In-place softmax of n floats (router probabilities).
  void (*softmax)(float* x, int n);

  // Rounds k and v ([heads][head_dim] floats) to the cache type and stores them in `slot` of
  // `page`.
  void (*store_kv)(const KvLayout& layout, int layer, const float* k, const float* v,
                   std::byte* page, int slot);
  // One row, one KV head: out[g][head_dim] for the group's query heads q[g][head_dim]. Visible keys
  // are the runs in order. No runs: out 0, lse -inf. `lse` (group floats) may be null. scratch:
  // group * keys floats.
  void (*attend)(const AttendParams& p, const float* q, const KvRun* runs, int run_count,
                 float* out, float* lse, float* scratch);

  // The same for `count` rows whose first `shared` runs are alike (not none): each row gets the
  // bits that `attend` gives it, and the slots of those runs are read once. scratch: count * group
  // * keys of the longest row + 32 * head_dim floats.
  void (*attend_shared)(const AttendParams& p, const AttendRow* rows, int count, int shared,
                        float* scratch);

  VocabStats (*vocab_stats)(const float* logits, int n, float inverse_temperature);
  // ids/values of the k largest logits, descending, lower id first on ties; returns how many (NaN
  // never).
  int (*top_k)(const float* logits, int n, int k, int* ids, float* values);
  // argmax over x[i] * inverse_temperature + gumbel(key, i), lowest id on ties: a draw from the
  // softmax.
  int (*gumbel_argmax)(const float* logits, int n, float inverse_temperature, const DrawKey& key);
  // The noise itself, for tokens ids[0..n): the same bits that gumbel_argmax adds. ids null:
  // 0..n-1.
  void (*gumbel)(const DrawKey& key, const int* ids, int n, float* out);

  // Our own elementary functions (same bits on every level), elementwise.
  void (*exp)(const float* x, int n, float* y);
  void (*log)(const float* x, int n, float* y);
  void (*cos_sin)(const float* angles, int n, float* cosines, float* sines);
};

// The kernels of one level. Throws Error(kUsage) when this machine cannot run it.
const Kernels& kernels(Isa isa);
// The level in use: the best available, or the one named by TUTTI_ISA
// (scalar|avx2|avxvnni|avx512|amx).
const Kernels& kernels();

}  // namespace tutti::tensor
