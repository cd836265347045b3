#include "tensor/tables.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "tensor/amx/emulated_tiles.h"
#include "tensor/levels.h"
#include "tensor/packing.h"
#include "tensor/scalar/lanes.h"

namespace tutti::tensor {

namespace evex_vnni {  // avx512/vnni256_test.cpp
QuantisedProduct matmul_quantised, matmul_w8a8;
}

namespace emulated_amx {

using Tiles = amx::EmulatedTiles;
constexpr QuantisedProduct& few_quantised = scalar::matmul_quantised;
constexpr QuantisedProduct& few_w8a8 = scalar::matmul_w8a8;

#include "tensor/amx/products.inc"

}  // namespace emulated_amx

const std::vector<Table>& tables() {
  static const std::vector<Table> all = [] {
    std::vector<Table> r;
    const auto isas = available_isas();
    for (const Isa isa : isas) r.push_back({std::string(name(isa)), kernels(isa)});
    r.push_back({"emulated amx", kernels(Isa::kScalar)});
    r.back().kernels.matmul_quantised = emulated_amx::matmul_quantised;
    r.back().kernels.matmul_w8a8 = emulated_amx::matmul_w8a8;
    if (std::ranges::find(isas, Isa::kAvx512) == isas.end()) return r;
    r.push_back({"evex vnni", kernels(Isa::kAvx2)});
    r.back().kernels.matmul_quantised = evex_vnni::matmul_quantised;
    r.back().kernels.matmul_w8a8 = evex_vnni::matmul_w8a8;
    r.push_back({"fma bf16", kernels(Isa::kAvx512)});
    r.back().kernels.matmul_bf16 = avx512::matmul_bf16;
    return r;
  }();
  return all;
}

namespace {

// One product against the sums it stands for, at extremes that signed or unsigned bytes alone would
// get wrong; what the processor refuses is refused.
TEST(EmulatedTiles, DoAsTheManualSays) {
  amx::EmulatedTiles tiles;
  int8_t rows[16 * 64];
  uint8_t weights[16 * 64];
  for (int i = 0; i < 16 * 64; ++i) {
    rows[i] = int8_t(i % 5 == 0 ? -128 : i % 7 == 0 ? 127 : 37 * i);
    weights[i] = uint8_t(i % 3 == 0 ? 255 : 11 * i);
  }
  EXPECT_THROW((tiles.zero<0, 0>()), std::logic_error);
  EXPECT_THROW(tiles.configure(17, 1, 64), std::logic_error);
  for (const auto& [count, inputs] : {std::pair{16, 64}, {3, 32}, {1, 16}}) {
    tiles.configure(count, 1, inputs);
    tiles.zero<0, 1>();
    tiles.load_rows<0>(rows, 64);
    tiles.load_weights<1>(weights);
    tiles.dot<0, 1>();
    tiles.dot<0, 1>();
    std::vector<int32_t> got(256, -7);
    tiles.store<0, 1>(got.data());
    for (int r = 0; r < 16; ++r) {
      for (int o = 0; o < 16; ++o) {
        int64_t sum = 0;
        for (int k = 0; k < inputs; ++k)
          sum += int64_t(rows[64 * r + k]) * weights[64 * (k / 4) + 4 * o + k % 4];
        ASSERT_EQ(got[size_t(16 * r + o)], r < count ? 2 * sum : -7) << r << ", " << o;
      }
    }
  }
}

}  // namespace
}  // namespace tutti::tensor
