// The operations of a transformer as fused CPU kernels on raw rows. SPMD: every worker holds a
// RowOps over the same RowWorkspace and calls the same operations; each takes its share and ends in
// a barrier.
#pragma once

#include <span>
#include <vector>

#include "base/pool.h"
#include "models/attention_plan.h"
#include "models/batch.h"
#include "models/checkpoint.h"
#include "models/config.h"
#include "models/relative_keys.h"
#include "models/weights.h"
#include "tensor/attend_steps.h"
#include "tensor/kernels.h"

namespace tutti::models {

using RowVector = std::vector<float>;
using RowWeights = Weights<tensor::Matrix, RowVector>;

// Quantised copies of the rows an operation reads, one per block size that some matrix wants.
struct QuantisedBuffer {
  tensor::AlignedBytes memory;
  tensor::QuantisedRows rows;
  void reserve(int row_count, int n, int block);
};

// Buffers of one forward at a time, shared by the workers and kept between forwards. All row
// buffers are compact: entry i belongs to the i-th active row of the epoch.
class RowWorkspace {
 public:
  // Makes room for `batch`; called by one thread before the workers start.
  void prepare(const Config& config, const Batch& batch, int workers);
  void prepare_attention(const Config& config, const Batch& batch, int workers);
  void prepare_distances(const Config& config, int workers);

  std::vector<float> hidden;     // [rows, hidden], by row, not compact
  std::vector<float> normed;     // [active, widest input]
  QuantisedBuffer q32, q256;     // of normed (or of attended, gated)
  QuantisedBuffer row8;          // the same with one scale per row
  std::vector<uint16_t> bf16;    // the same rounded to bf16, in rows of a multiple of 32
  std::vector<float> qkv;        // [active, (heads + 2 kv_heads) * head_dim]
  std::vector<float> attended;   // [active, heads * head_dim]
  std::vector<float> gate, up;   // [active, widest intermediate]
  std::vector<float> projected;  // [active, hidden]
  std::vector<float> cos_sin;    // [rows, 2 * pairs] of full layers
  std::vector<float> sliding_cos_sin;
  std::vector<float> logits;               // [kHeadRows, vocab]
  std::vector<std::vector<float>> scores;  // per worker: attention scratch
  std::vector<std::vector<float>>
      distances;  // per worker: a head's terms of all distances (Config::relative)
  std::vector<AttentionPlan> full_plans, sliding_plans;  // per epoch
  std::vector<float> shared_scores;                      // of a plan's shared heads
  // [shared head, worker, query head]: of the keys that the worker scored
  std::vector<tensor::AttendMaxima> shared_maxima;
  // experts
  std::vector<float> router;  // [active, experts]
  std::vector<float>
      choice;  // [active, experts]: the scores to choose by, when they are not the router's
  std::vector<int> chosen;                   // [active, used]
  std::vector<float> chosen_weight;          // [active, used]
  std::vector<int> expert_first;             // [experts + 1]: pairs by expert
  std::vector<int> expert_pairs;             // (active row * used + rank), grouped by expert
  std::vector<float> expert_in, expert_out;  // [pairs, hidden]
  std::vector<float> shared_out;             // [active, hidden]
  std::vector<float> shared_gate;            // [active]
};

class RowOps {
 public:
  static constexpr int kHeadRows = 32;  // rows of logits held at once

  struct Shared {
    const tensor::Kernels& kernels;
    const Config& config;
    const Batch& batch;
    const KvMemory& kv;
    const StoredTensor& embedding;  // rows are dequantised from the file's own blocks
    const LogitsConsumer& consume;
    RowWorkspace& space;
    const RelativeKeys* relative = nullptr;  // of networks with relative positions
  };
  struct Rows {
    float* data;
    int width;
  };

  RowOps(const Shared& shared, Worker& worker);

  bool has(const tensor::Matrix& m) const { return !m.empty(); }

  Rows embed(const tensor::Matrix& embedding, float scale, const RowVector& mask = {});
  // Rows that enter at `layer` take their input; the epoch's active rows change.
  void enter(Rows h, int layer);
  // RMS norm (none when it is empty), then the three products side by side in one buffer.
  Rows norm_qkv(Rows h, const RowVector& norm, const Linear<tensor::Matrix, RowVector>& q,
                const Linear<tensor::Matrix, RowVector>& k,
                const Linear<tensor::Matrix, RowVector>& v);
  // Per-head norms, segment vectors, rotation; keys and values go to their slots, rounded to the
  // cache type.
  void rope_store(int layer, Rows qkv, const RowVector& q_norm, const RowVector& k_norm,
                  const RowVector& segments);
  Rows attend(int layer, Rows qkv);
  // h += post_norm(W in + b), without the norm when it is empty.
  void linear_residual(Rows h, Rows in, const Linear<tensor::Matrix, RowVector>& linear,
                       const RowVector& post_norm);
  Rows norm_gated(Rows h, const RowVector& norm, const Linear<tensor::Matrix, RowVector>& gate,
                  const Linear<tensor::Matrix, RowVector>& up);
  // Routed feed-forward. Ties of the router go to the lower index; outputs are summed in gate-rank
  // order.
  void experts_residual(Rows h, const LayerWeights<tensor::Matrix, RowVector>& layer);
  void head(Rows h, const RowVector& norm, const tensor::Matrix& head, const RowVector& bias = {});

  // BERT's own (row_ops_bert.cpp): h = layer_norm(embedding + position + type of token).
  Rows embed_places(const tensor::Matrix& embedding, const RowVector& positions,
                    const RowVector& types, const RowVector& norm, const RowVector& norm_bias);

  // XLNet's own (row_ops_xlnet.cpp); BERT shares the last two. Scores have the terms of weights.h,
  // by the distances of Shared::relative.
  Rows attend_relative(int layer, Rows qkv, const LayerWeights<tensor::Matrix, RowVector>& weights);
  // h = layer_norm(h + W in + b).
  void linear_layer_norm(Rows h, Rows in, const Linear<tensor::Matrix, RowVector>& linear,
                         const RowVector& norm, const RowVector& norm_bias);
  // act(W h + b)
  Rows activated(Rows h, const Linear<tensor::Matrix, RowVector>& linear);

 private:
  struct Product {
    const tensor::Matrix* matrix;
    const RowVector* bias;
    float* out;
    size_t stride;
  };
  // The forms in which some matrices read their rows, besides fp32: blocks of 32 or 256, whole
  // rows, bf16.
  struct Operands {
    bool q32 = false, q256 = false, row8 = false, bf16 = false;
    bool any() const { return q32 || q256 || row8 || bf16; }
    void add(const tensor::Matrix& m);
  };
  const AttentionPlan& attention_plan(int layer) const;
  std::span<const RunSpan> spans(int layer) const;
  void attend_heads(tensor::AttendParams params, Rows qkv, std::span<const RunSpan> spans,
                    const RowGroup& group, int first, int last);
  // This worker's parts of the heads that several workers compute, with a barrier after each of the
  // first two steps.
  void attend_parts(tensor::AttendParams params, Rows qkv, std::span<const RunSpan> spans,
                    const AttentionPlan& plan);
  // Where a worker leaves the maxima of its part of a shared head: [query heads].
  tensor::AttendMaxima* part_maxima(int shared_head, int worker);
  // Fills Batch::mass of this layer.
  void attention_mass(int layer, tensor::AttendParams params, Rows qkv, float* scratch);
  void set_classes(int row, tensor::AttendParams& params) const;
  // What attention of this layer starts with: pages, scale, the classes of all rows.
  tensor::AttendParams attend_params(int layer) const;
  // What is added to the dot products of one row's query head: terms[key], in View order.
  void relative_terms(int layer, int head, int row, const RunSpan& span, const float* q,
                      const LayerWeights<tensor::Matrix, RowVector>& weights, float* terms);
  int active() const { return int(epoch_->rows.size()); }
  float* hidden_of(int row) const;
  void norm_rows(std::span<const int> rows, const RowVector& norm, const Operands& need);
  // Rows of `width` for `need`; a barrier when there is any.
  void convert_rows(const float* in, int width, int count, const Operands& need);
  // Says how wide the converted rows are until the next call.
  void set_width(int width);
  // Converts `count` rows from `in` on, to be rows `first` and so on of the buffers.
  void convert(const float* in, int first, int count, const Operands& need);
  // One matrix's tiles [first, last) for `count` rows, from the converted buffers or `dense`.
  void multiply(const Product& product, const float* dense, size_t dense_stride, int count,
                int first, int last);
  // All tiles of the products, split evenly over the workers. No barrier.
  void multiply_shared(std::span<const Product> products, const float* dense, size_t dense_stride,
                       int count);

  const Shared& shared_;
  Worker& worker_;
  const tensor::Kernels& k_;
  const tensor::AttendSteps& steps_;
  const Config& config_;
  const Batch& batch_;
  RowWorkspace& space_;
  const Epoch* epoch_ = nullptr;
  tensor::QuantisedRows q32_, q256_, row8_;  // the workspace's, at the width in use
  size_t bf16_stride_ = 0;
};

}  // namespace tutti::models
