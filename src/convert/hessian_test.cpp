#include "convert/hessian.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/draws.h"

namespace tutti::convert {
namespace {

std::vector<double> sum_of(int in, int block, const std::vector<float>& x, int rows, size_t stride,
                           int threads) {
  ComputePool pool(threads);
  Hessian hessian(in, block);
  for (int first = 0; first < rows; first += block) {
    pool.run([&](Worker& worker) {
      hessian.add(worker, x.data() + size_t(first) * stride, stride, std::min(block, rows - first));
    });
  }
  return hessian.take();
}

TEST(Hessian, IsTheSumOfOuterProducts) {
  Draws draws(3);
  for (const int in : {1, 16, 50, 97}) {
    const int rows = 41;
    const size_t stride = size_t(in) + 3;
    std::vector<float> x(size_t(rows) * stride);
    for (float& v : x) v = draws.uniform(-2, 2);
    const std::vector<double> got =
        sum_of(in, 16, x, rows, stride, 2);  // the last block is not full
    ASSERT_EQ(got.size(), size_t(in) * size_t(in));
    for (int i = 0; i < in; ++i) {
      for (int j = 0; j < in; ++j) {
        double wanted = 0;
        for (int r = 0; r < rows; ++r)
          wanted +=
              double(x[size_t(r) * stride + size_t(i)]) * double(x[size_t(r) * stride + size_t(j)]);
        EXPECT_NEAR(got[size_t(i * in + j)], wanted, 4e-5) << i << ", " << j << " of " << in;
      }
    }
    EXPECT_EQ(got, sum_of(in, 16, x, rows, stride, 3));  // whoever computes it
  }
}

}  // namespace
}  // namespace tutti::convert
