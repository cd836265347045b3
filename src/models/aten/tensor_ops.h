// The operations of a transformer over ATen tensors: the oracle of RowOps, and the differentiable
// path. The same Batch drives both, so a View means the same in training and in serving.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "models/aten/attention_groups.h"
#include "models/batch.h"
#include "models/checkpoint.h"
#include "models/config.h"
#include "models/weights.h"

namespace tutti::models {

// Undefined tensors stand for absent parts.
using TensorWeights = Weights<at::Tensor, at::Tensor>;

// All weights dequantised to `dtype` tensors, in main memory.
TensorWeights tensor_weights(const Checkpoint& checkpoint, at::ScalarType dtype = at::kFloat);

// Keys and values of earlier forwards: per layer [slots, kv_heads, head_dim], slot = page * 32 +
// slot in page. With no pages nothing is kept and rows see rows of their own forward only
// (training); slots then only name them.
struct TensorKv {
  std::vector<at::Tensor> k, v;
  TensorKv(const Config& config, int pages, at::ScalarType dtype = at::kFloat,
           at::Device device = at::kCPU);
};

// What stands beside a matrix W of a network, which is used as W + scale * b a (Hu et al., 2021)
// and never written out: a [rank, in], b [out, rank]. Gradients reach a and b; W needs none.
struct LowRank {
  at::Tensor a, b;
  double scale = 1;
};

// Inputs of a batch that gradients shall reach: what is given here stands for the floats of the
// batch.
struct TensorInputs {
  std::vector<at::Tensor>
      rows;  // per row or empty: of a kVector row the vector [hidden], of a kMix row the weights
  std::unordered_map<const LinearMap*, Linear<at::Tensor, at::Tensor>> maps;  // of kFromRow rows
  std::unordered_map<const at::TensorImpl*, LowRank> low_rank;  // by the matrix they stand beside
};

// logits[i] is [vocab] for head row i; hidden[i] is [hidden] for Batch::hidden[i] (whose `out` is
// not written).
struct TensorAnswer {
  at::Tensor logits;  // [head rows, vocab]
  std::vector<at::Tensor> hidden;
};

// Computes where the weights lie; inputs and the TensorKv lie there, too.
class TensorOps {
 public:
  TensorOps(const Config& config, const Batch& batch, TensorKv& kv,
            const TensorInputs& inputs = {});

  bool has(const at::Tensor& t) const { return t.defined(); }
  struct Qkv {
    at::Tensor q, k, v;
  };

  at::Tensor embed(const at::Tensor& embedding, float scale, const at::Tensor& mask = {});
  void enter(at::Tensor& h, int layer);
  Qkv norm_qkv(const at::Tensor& h, const at::Tensor& norm, const Linear<at::Tensor, at::Tensor>& q,
               const Linear<at::Tensor, at::Tensor>& k, const Linear<at::Tensor, at::Tensor>& v);
  void rope_store(int layer, Qkv& qkv, const at::Tensor& q_norm, const at::Tensor& k_norm,
                  const at::Tensor& segments);
  at::Tensor attend(int layer, const Qkv& qkv);
  void linear_residual(at::Tensor& h, const at::Tensor& in,
                       const Linear<at::Tensor, at::Tensor>& linear, const at::Tensor& post_norm);
  at::Tensor norm_gated(const at::Tensor& h, const at::Tensor& norm,
                        const Linear<at::Tensor, at::Tensor>& gate,
                        const Linear<at::Tensor, at::Tensor>& up);
  void experts_residual(at::Tensor& h, const LayerWeights<at::Tensor, at::Tensor>& layer);
  void head(const at::Tensor& h, const at::Tensor& norm, const at::Tensor& head,
            const at::Tensor& bias = {});

  // XLNet's own (tensor_ops_xlnet.cpp).
  at::Tensor attend_relative(int layer, const Qkv& qkv,
                             const LayerWeights<at::Tensor, at::Tensor>& weights);
  void linear_layer_norm(at::Tensor& h, const at::Tensor& in,
                         const Linear<at::Tensor, at::Tensor>& linear, const at::Tensor& norm,
                         const at::Tensor& norm_bias);
  at::Tensor activated(const at::Tensor& h, const Linear<at::Tensor, at::Tensor>& linear);

  TensorAnswer& answer() { return answer_; }

 protected:
  // What the head multiplies: the normed states of the head rows.
  at::Tensor head_input(const at::Tensor& h, const at::Tensor& norm_weight) const;

 private:
  struct Rotation {
    at::Tensor cos, sin;  // [active, 1, pairs]
  };
  struct Attended {
    at::Tensor out, exponent;
  };
  struct KeyTable {
    at::Tensor positions, segments;  // [slots + rows]
  };
  at::Tensor index_tensor(const std::vector<int64_t>& ids) const;
  void enter_epoch(const Epoch& epoch);
  at::Tensor free_input(const at::Tensor& embedding, float scale, size_t row) const;
  at::Tensor linear(const at::Tensor& x, const Linear<at::Tensor, at::Tensor>& l) const;
  at::Tensor active_rows(const at::Tensor& h) const;
  at::Tensor by_row(const at::Tensor& active) const;
  at::Tensor norm(const at::Tensor& x, const at::Tensor& weight) const;
  at::Tensor activate(const at::Tensor& x) const;
  const Rotation& rotation(const Rope& rope, const at::Tensor& like);
  at::Tensor rotate(const at::Tensor& x, const Rope& rope);
  void add_rows(at::Tensor& h, const at::Tensor& delta) const;
  const AttentionGroups& groups(int layer);
  static Attended attend_class(const AttentionBucket::Class& c, at::Tensor scores,
                               const at::Tensor& values, bool alone);
  // `terms`, when given, makes what is added to the products of queries and keys, [G, heads, r, k].
  using Terms = std::function<at::Tensor(const AttentionBucket&)>;
  at::Tensor attend_bucket(const AttentionBucket& bucket, const at::Tensor& q,
                           const at::Tensor& keys, const at::Tensor& values,
                           const Terms& terms) const;
  at::Tensor attend_with(int layer, const Qkv& qkv, const at::Tensor& queries, const Terms& terms);
  // [groups, n, ...]: the rows of x that the bucket names, or all.
  static at::Tensor of_groups(const AttentionBucket& bucket, const at::Tensor& x,
                              const at::Tensor& index, int64_t n);
  // Position and segment of every earlier slot and row that some row sees, by key of
  // AttentionBucket.
  const KeyTable& key_table(int64_t slots);

  const Config& config_;
  const Batch& batch_;
  TensorKv& kv_;
  TensorInputs inputs_;
  const Epoch* epoch_ = nullptr;
  at::Device device_ = at::kCPU;  // of the weights, from embed() on
  at::Tensor active_;             // [active] indices of the epoch's rows; undefined: all rows
  std::array<std::optional<AttentionGroups>, 2> groups_;  // of the epoch's full and sliding layers
  std::map<const Rope*, Rotation> rotations_;             // of the epoch's rows
  std::optional<KeyTable> key_table_;                     // of the epoch
  at::Tensor fresh_k_, fresh_v_;  // this layer's, by row (inactive rows zero)
  TensorAnswer answer_;
};

// One forward of the batch through TensorOps, in the dtype of the weights. Gradients reach weights
// and inputs through the rows of this forward; keys and values of earlier ones are constants.
TensorAnswer tensor_forward(const Config& config, const TensorWeights& weights, const Batch& batch,
                            TensorKv& kv, const TensorInputs& inputs = {});

// The same without the product of the head, for those who take it in parts: the normed states [head
// rows, hidden] that it multiplies. The model has no cap of logits (Config::logit_cap). `hidden`,
// when given, receives TensorAnswer::hidden.
at::Tensor tensor_states(const Config& config, const TensorWeights& weights, const Batch& batch,
                         TensorKv& kv, const TensorInputs& inputs = {},
                         std::vector<at::Tensor>* hidden = nullptr);

}  // namespace tutti::models
