#include "models/relative_keys.h"

#include <cmath>

#include "tensor/kernels.h"

namespace tutti::models {

void relative_encoding(int hidden, int delta, float* out) {
  const int half = hidden / 2;
  std::vector<float> angles(static_cast<size_t>(half));
  for (int t = 0; t < half; ++t) {
    // In fp32, as the published implementation computes the angle.
    angles[size_t(t)] = float(delta) * float(std::pow(10000.0, -2.0 * t / hidden));
  }
  tensor::kernels().cos_sin(angles.data(), half, out + half, out);
}

RelativeKeys::RelativeKeys(const Config& c, const StoredWeights& weights, ComputePool& pool)
    : heads_(c.heads), farthest_(farthest(c)), keys_(size_t(c.layers * c.heads)) {
  const int n = distances(c), hidden = c.hidden, d = c.head_dim, width = heads_ * d;
  std::vector<float> encodings(size_t(n) * size_t(hidden)), product(size_t(n) * size_t(width));
  pool.run([&](Worker& worker) {
    const auto [first, last] = worker.share(n);
    for (int i = first; i < last; ++i) {
      relative_encoding(hidden, i - farthest_, encodings.data() + size_t(i) * size_t(hidden));
    }
  });
  for (int l = 0; l < c.layers; ++l) {
    const std::vector<float> stored = weights.layers[size_t(l)].relative.floats();
    const tensor::Matrix relative =
        tensor::Matrix::pack(tensor::Type::kF32, std::as_bytes(std::span(stored)), width, hidden,
                             tensor::Arithmetic::kExactF32);
    pool.run([&](Worker& worker) {
      const auto [first, last] = worker.share(n);
      tensor::kernels().matmul_dense(relative, encodings.data() + size_t(first) * size_t(hidden),
                                     size_t(hidden), last - first, 0, relative.tiles(),
                                     product.data() + size_t(first) * size_t(width), size_t(width));
      worker.barrier();
      const auto [first_head, last_head] = worker.share(heads_);
      std::vector<float> head(size_t(n) * size_t(d));
      for (int h = first_head; h < last_head; ++h) {
        for (int i = 0; i < n; ++i) {
          std::copy_n(product.data() + size_t(i) * size_t(width) + size_t(h * d), d,
                      head.data() + size_t(i) * size_t(d));
        }
        keys_[size_t(l * heads_ + h)] =
            tensor::Matrix::pack(tensor::Type::kF32, std::as_bytes(std::span(head)), n, d,
                                 tensor::Arithmetic::kExactF32);
      }
    });
  }
}

}  // namespace tutti::models
