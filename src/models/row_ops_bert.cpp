// The operation of BERT as a CPU kernel (row_ops.h).
#include "models/row_ops.h"

namespace tutti::models {

RowOps::Rows RowOps::embed_places(const tensor::Matrix& embedding, const RowVector& positions,
                                  const RowVector& types, const RowVector& norm,
                                  const RowVector& norm_bias) {
  const Rows h = embed(embedding, 1.0f);
  const int hidden = config_.hidden;
  const auto [first, last] = worker_.share(batch_.rows());
  for (int r = first; r < last; ++r) {
    float* x = hidden_of(r);
    const size_t position = size_t(batch_.positions[size_t(r)].t);
    const size_t type = size_t(batch_.segments[size_t(r)]);
    k_.add(types.data() + type * size_t(hidden), hidden, x);
    k_.add(positions.data() + position * size_t(hidden), hidden, x);
    k_.layer_norm(x, norm.data(), norm_bias.data(), config_.norm_eps, hidden, x);
  }
  worker_.barrier();
  return h;
}

}  // namespace tutti::models
