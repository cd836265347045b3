// Speed of the products on one core, by type and rows: `bench_products [isa] [type]`.
// Columns: 10^9 multiply-adds per second (median of the repeats, and their spread) and the bytes of
// packed weights read per second. The matrices together are larger than the caches, as in a real
// decode.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/philox.h"
#include "tensor/kernels.h"
#include "tensor/quantise.h"

namespace {

using namespace tutti;
using namespace tutti::tensor;

constexpr int kOut = 1536, kIn = 1536, kMatrices = 32, kRepeats = 9;

struct Data {
  std::vector<Matrix> matrices;
  std::vector<float> x, y, scales;
  std::vector<int8_t> q;
  std::vector<int32_t> sums;
};

// Time this thread had a core for, so that other programs on the machine disturb little.
double seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

void measure(const Kernels& k, Type type, int rows, Data& data) {
  const Matrix& first = data.matrices[0];
  QuantisedRows quantised{first.activation_block(), kIn, data.q.data(), data.scales.data(),
                          data.sums.data()};
  if (first.quantised()) k.quantise(data.x.data(), kIn, rows, quantised, 0);
  std::vector<double> times;
  for (int repeat = 0; repeat <= kRepeats; ++repeat) {
    const double start = seconds();
    for (const Matrix& m : data.matrices) {
      if (m.quantised()) {
        k.matmul_quantised(m, quantised, rows, 0, m.tiles(), data.y.data(), kOut);
      } else {
        k.matmul_dense(m, data.x.data(), kIn, rows, 0, m.tiles(), data.y.data(), kOut);
      }
    }
    if (repeat > 0) times.push_back(seconds() - start);
  }
  std::ranges::sort(times);
  const double macs = double(kMatrices) * kOut * kIn * rows,
               bytes = double(first.bytes()) * kMatrices;
  const double median = times[times.size() / 2];
  std::printf("%-8s %-5s %4d %9.1f %8.1f..%-8.1f %8.2f\n", name(k.isa).data(),
              info(type).name.data(), rows, macs / median * 1e-9, macs / times.back() * 1e-9,
              macs / times.front() * 1e-9, bytes / median * 1e-9);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view only_isa = argc > 1 ? argv[1] : "", only_type = argc > 2 ? argv[2] : "";
  std::printf("%d matrices of %d x %d, one core\n%-8s %-5s %4s %9s %18s %8s\n", kMatrices, kOut,
              kIn, "isa", "type", "rows", "GMAC/s", "spread", "GB/s");
  for (Type type : {Type::kQ4_0, Type::kQ4_1, Type::kQ5_0, Type::kQ5_1, Type::kQ8_0, Type::kQ4_K,
                    Type::kQ5_K, Type::kQ6_K, Type::kF32, Type::kF16, Type::kBF16}) {
    if (!only_type.empty() && only_type != info(type).name) continue;
    constexpr int kMaxRows = 64;
    Data data;
    std::vector<float> weights(size_t(kOut) * kIn);
    const DrawKey key{.seed = 1, .purpose = Purpose::kTest};
    for (size_t i = 0; i < weights.size(); ++i) {
      weights[i] =
          i < 65536 ? uniform_open(draw_word(key, uint32_t(i))) - 0.5f : weights[i - 65536];
    }
    data.x.assign(weights.begin(), weights.begin() + kMaxRows * kIn);
    data.y.resize(size_t(kMaxRows) * kOut);
    data.scales.resize(size_t(kMaxRows) * kIn / 32);
    data.q.resize(size_t(kMaxRows) * kIn);
    data.sums.resize(size_t(kMaxRows) * kIn / 16);
    std::vector<std::byte> raw(row_bytes(type, kIn) * kOut);
    const size_t part =
        row_bytes(type, kIn) * 48;  // 48 rows quantised, then repeated: quick to set up
    quantise(type, std::span(weights).first(48 * kIn), std::span(raw).first(part));
    for (size_t at = part; at < raw.size(); at += part) std::memcpy(&raw[at], raw.data(), part);
    WeightMemory memory;
    const double start = seconds();
    for (int i = 0; i < kMatrices; ++i) {
      data.matrices.push_back(Matrix::allocate(type, kOut, kIn, Arithmetic::kExactQ8, &memory));
      data.matrices.back().pack_tiles(type, raw, 0, data.matrices.back().tiles());
    }
    const double packing = seconds() - start;
    std::printf("%-5s packs at %.2f G weights/s, %.3f bytes a weight\n", info(type).name.data(),
                double(kMatrices) * kOut * kIn / packing * 1e-9,
                double(data.matrices[0].bytes()) / (kOut * kIn));
    for (Isa isa : available_isas()) {
      if (isa == Isa::kScalar && only_isa != "scalar") continue;
      if (!only_isa.empty() && only_isa != name(isa)) continue;
      for (int rows : {1, 2, 4, 8, 16, 32, 64}) measure(kernels(isa), type, rows, data);
    }
  }
  return 0;
}
