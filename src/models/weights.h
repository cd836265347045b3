// The weights of a transformer, once for every way of holding a matrix: as stored in a file, packed
// for the kernels, or as ATen tensors.
#pragma once

#include <utility>
#include <vector>

namespace tutti::models {

// y = weight x + bias; weight is [out, in], bias empty or [out].
template <class Matrix, class Vector>
struct Linear {
  Matrix weight;
  Vector bias;
};

// Optional parts are empty (default constructed) when the model has none.
template <class Matrix, class Vector>
struct LayerWeights {
  Vector attn_norm;                // [hidden]
  Vector attn_norm_bias;           // [hidden], optional: the norm is a layer norm (XLNet)
  Linear<Matrix, Vector> q, k, v;  // [heads*head_dim, hidden], [kv_heads*head_dim, hidden] twice
  Vector q_norm, k_norm;           // [head_dim], optional
  Vector segments;           // [max_segments * head_dim], optional: added to k, v by segment id
  Linear<Matrix, Vector> o;  // [hidden, heads*head_dim]
  Vector post_attn_norm;     // [hidden], optional (Gemma)
  Vector ffn_norm;           // [hidden]
  Vector ffn_norm_bias;      // [hidden], optional, as attn_norm_bias
  Linear<Matrix, Vector> gate, up;  // [intermediate, hidden], dense layers; XLNet has no gate
  Linear<Matrix, Vector> down;      // [hidden, intermediate]
  Vector post_ffn_norm;             // [hidden], optional (Gemma)
  // XLNet (Config::relative): the score of row i and key j is (q + content_bias) . k_j + (q +
  // position_bias) . (relative R(i - j)), and where their segments differ (q + segment_bias) .
  // (E[1] - E[0]) more, E being segment_keys.
  Matrix relative;                                          // [heads*head_dim, hidden]
  Vector content_bias, position_bias, segment_bias;         // [heads*head_dim]
  Vector segment_keys;                                      // [2 * heads*head_dim]
  Matrix router;                                            // [experts, hidden], sparse layers
  Vector router_bias;                                       // [experts], optional: see Experts
  std::vector<Matrix> expert_gate, expert_up, expert_down;  // per expert, shapes as the dense ones
  Matrix shared_gate, shared_up, shared_down;               // shared expert, optional
  Matrix shared_router;  // [1, hidden]: sigmoid gate of the shared expert
};

template <class Matrix, class Vector>
struct Weights {
  using MatrixType = Matrix;
  using VectorType = Vector;
  Matrix embedding;  // [vocab, hidden]
  std::vector<LayerWeights<Matrix, Vector>> layers;
  Vector output_norm;  // [hidden]
  Matrix head;         // [vocab, hidden]; empty when tied to the embedding
  Vector head_bias;    // [vocab], optional
  Vector mask;         // [hidden], optional: what RowInput::kMask stands for (XLNet's query stream)
  // BERT: what is added to an embedding, [positions * hidden] and [types * hidden], and the layer
  // norm over the sum.
  Vector positions, types;
  Vector embedding_norm, embedding_norm_bias;
};

// What convert_weights makes when only its visits matter.
using Visits = Weights<int, int>;

// The same weights in another form: `matrix` and `vector` convert one tensor each and map empty to
// empty. They are called in one fixed order.
template <class To, class From, class MatrixFn, class VectorFn>
To convert_weights(From& from, const MatrixFn& matrix, const VectorFn& vector) {
  const auto linear = [&](auto& l) {
    return Linear<typename To::MatrixType, typename To::VectorType>{matrix(l.weight),
                                                                    vector(l.bias)};
  };
  const auto list = [&](auto& matrices) {
    std::vector<typename To::MatrixType> out;
    out.reserve(matrices.size());
    for (auto& m : matrices) out.push_back(matrix(m));
    return out;
  };
  To to;
  to.embedding = matrix(from.embedding);
  to.layers.reserve(from.layers.size());
  for (auto& l : from.layers) {
    LayerWeights<typename To::MatrixType, typename To::VectorType> t;
    t.attn_norm = vector(l.attn_norm);
    t.attn_norm_bias = vector(l.attn_norm_bias);
    t.q = linear(l.q);
    t.k = linear(l.k);
    t.v = linear(l.v);
    t.q_norm = vector(l.q_norm);
    t.k_norm = vector(l.k_norm);
    t.segments = vector(l.segments);
    t.o = linear(l.o);
    t.post_attn_norm = vector(l.post_attn_norm);
    t.ffn_norm = vector(l.ffn_norm);
    t.ffn_norm_bias = vector(l.ffn_norm_bias);
    t.gate = linear(l.gate);
    t.up = linear(l.up);
    t.down = linear(l.down);
    t.post_ffn_norm = vector(l.post_ffn_norm);
    t.relative = matrix(l.relative);
    t.content_bias = vector(l.content_bias);
    t.position_bias = vector(l.position_bias);
    t.segment_bias = vector(l.segment_bias);
    t.segment_keys = vector(l.segment_keys);
    t.router = matrix(l.router);
    t.router_bias = vector(l.router_bias);
    t.expert_gate = list(l.expert_gate);
    t.expert_up = list(l.expert_up);
    t.expert_down = list(l.expert_down);
    t.shared_gate = matrix(l.shared_gate);
    t.shared_up = matrix(l.shared_up);
    t.shared_down = matrix(l.shared_down);
    t.shared_router = matrix(l.shared_router);
    to.layers.push_back(std::move(t));
  }
  to.output_norm = vector(from.output_norm);
  to.head = matrix(from.head);
  to.head_bias = vector(from.head_bias);
  to.mask = vector(from.mask);
  to.positions = vector(from.positions);
  to.types = vector(from.types);
  to.embedding_norm = vector(from.embedding_norm);
  to.embedding_norm_bias = vector(from.embedding_norm_bias);
  return to;
}

}  // namespace tutti::models
