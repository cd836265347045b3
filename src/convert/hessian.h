// Sums of x x' over the rows that a linear layer meets: what GPTQ asks of calibration text.
#pragma once

#include <vector>

#include "base/pool.h"
#include "tensor/matrix.h"

namespace tutti::convert {

// The sum over blocks of rows. Each entry is one fp32 chain over a block's rows, and the blocks are
// summed in double: the same bits for any number of workers and any instruction set.
class Hessian {
 public:
  Hessian() = default;
  // Of inputs of `in` elements, in blocks of at most `rows` rows.
  Hessian(int in, int rows);

  // Adds rows [count][in], row `stride` floats apart; every worker of a job calls it with the same
  // arguments. Ends in a barrier. `count` <= the rows of the constructor.
  void add(Worker& worker, const float* x, size_t stride, int count);
  // The whole matrix [in][in]; leaves nothing behind.
  std::vector<double> take();

 private:
  int in_ = 0, rows_ = 0;
  std::vector<float> turned_;   // [in][rows]
  tensor::Matrix matrix_;       // the same, as the weight of a product
  std::vector<float> product_;  // [in][in], tiles on and above the diagonal
  std::vector<double> sum_;     // the same
};

}  // namespace tutti::convert
