// The definition of the class w8a8-row: one integer sum per output, two multiplications at the end.
#include <algorithm>
#include <cstring>

#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::scalar {

void matmul_w8a8(const Matrix& w, const QuantisedRows& x, int rows, int tile_first, int tile_last,
                 float* y, size_t y_stride) {
  const MatrixView m = view(w);
  for (int t = tile_first; t < tile_last; ++t) {
    const std::byte* tile = m.data + size_t(t) * m.tile_bytes;
    const int lanes = std::min(kTileOutputs, m.out - t * kTileOutputs);
    for (int r = 0; r < rows; ++r) {
      const int8_t* q = x.q + size_t(r) * size_t(m.in);
      for (int o = 0; o < lanes; ++o) {
        int32_t sum = 0;  // does not overflow: fits_w8a8
        for (int k = 0; k < m.in; ++k)
          sum += (int(tile[size_t(k / 4) * 64 + size_t(4 * o + k % 4)]) - 128) * q[k];
        float scale;
        std::memcpy(&scale, tile + row8_scales(m.in) + 4 * o, 4);
        y[size_t(r) * y_stride + size_t(t) * kTileOutputs + size_t(o)] =
            float(sum) * (scale * x.scales[r]);
      }
    }
  }
}

}  // namespace tutti::tensor::scalar
