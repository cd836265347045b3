#include "convert/hessian.h"

#include <algorithm>
#include <span>

#include "tensor/kernels.h"

namespace tutti::convert {

using tensor::kTileOutputs;

Hessian::Hessian(int in, int rows)
    : in_(in),
      rows_(rows),
      turned_(size_t(in) * size_t(rows)),
      matrix_(
          tensor::Matrix::allocate(tensor::Type::kF32, in, rows, tensor::Arithmetic::kExactF32)),
      product_(size_t(in) * size_t(in)),
      sum_(size_t(in) * size_t(in)) {}

void Hessian::add(Worker& worker, const float* x, size_t stride, int count) {
  const size_t rows = size_t(rows_), in = size_t(in_);
  const auto inputs = worker.share(in_);
  for (int r = 0; r < rows_; ++r) {
    // A block that is not full is filled up with zeros, which add nothing.
    for (int k = inputs.first; k < inputs.last; ++k)
      turned_[size_t(k) * rows + size_t(r)] = r < count ? x[size_t(r) * stride + size_t(k)] : 0.0f;
  }
  worker.barrier();
  const auto tiles = worker.share(matrix_.tiles());
  matrix_.pack_tiles(tensor::Type::kF32, std::as_bytes(std::span(turned_)), tiles.first,
                     tiles.last);
  worker.barrier();
  // Strips of 16 inputs, from their diagonal tile on; one after the other to each worker, as the
  // early are longer.
  for (int t = worker.index(); t < matrix_.tiles(); t += worker.count()) {
    const int first = t * kTileOutputs, last = std::min(in_, first + kTileOutputs);
    tensor::kernels().matmul_dense(matrix_, turned_.data() + size_t(first) * rows, rows,
                                   last - first, t, matrix_.tiles(),
                                   product_.data() + size_t(first) * in, in);
    for (int i = first; i < last; ++i) {
      for (size_t j = size_t(first); j < in; ++j)
        sum_[size_t(i) * in + j] += double(product_[size_t(i) * in + j]);
    }
  }
  worker.barrier();
}

std::vector<double> Hessian::take() {
  const size_t in = size_t(in_);
  for (size_t i = 0; i < in; ++i) {
    for (size_t j = 0; j < i; ++j) sum_[i * in + j] = sum_[j * in + i];
  }
  std::vector<double> whole = std::move(sum_);
  *this = Hessian();
  return whole;
}

}  // namespace tutti::convert
