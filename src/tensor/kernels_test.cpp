// Dispatch, norms, rotary positions, elementwise kernels and the cache store.
#include "tensor/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"
#include "tensor/levels.h"
#include "tensor/trial.h"

namespace tutti::tensor {
namespace {

TEST(Dispatch, NamesAndErrors) {
  const auto isas = available_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), Isa::kScalar);
  EXPECT_EQ(choose_isa(""), isas.back());
  for (Isa isa : isas) {
    EXPECT_EQ(choose_isa(name(isa)), isa);
    EXPECT_EQ(kernels(isa).isa, isa);
  }
  try {
    choose_isa("avx1024");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(e.what()).find("TUTTI_ISA: 'avx1024'"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("scalar"), std::string::npos) << e.what();
  }
  for (Isa isa : {Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512, Isa::kAmx}) {
    if (std::find(isas.begin(), isas.end(), isa) == isas.end()) {
      EXPECT_THROW(kernels(isa), Error);
      EXPECT_THROW(choose_isa(name(isa)), Error);
    }
  }
}

TEST(Dispatch, TablesAreComplete) {
  for (Isa isa : available_isas()) {
    const Kernels k = kernels(isa);
    // every member after `isa` is a pointer; none may be null
    const auto* slots = reinterpret_cast<const std::byte*>(&k);
    for (size_t at = sizeof(void*); at + sizeof(void*) <= sizeof(Kernels); at += sizeof(void*)) {
      void* slot;
      std::memcpy(&slot, slots + at, sizeof(slot));
      EXPECT_NE(slot, nullptr) << name(isa) << " entry " << at / sizeof(void*);
    }
  }
}

TEST(RmsNorm, MatchesTheFormulaAndTheOrderRule) {
  Trial trial(1);
  for (int n : {1, 2, 15, 16, 17, 31, 64, 100, 576, 640, 2048, 4097}) {
    const auto x = trial.normals(n, 3.0f), w = trial.normals(n);
    std::vector<float> y(x.size());
    kernels(Isa::kScalar).rms_norm(x.data(), w.data(), 1e-5f, n, y.data());
    double squares = 0;
    float lanes[16] = {};
    for (int i = 0; i < n; ++i) {
      squares += double(x[size_t(i)]) * x[size_t(i)];
      lanes[i % 16] = std::fma(x[size_t(i)], x[size_t(i)], lanes[i % 16]);
    }
    for (int step = 8; step; step /= 2) {
      for (int i = 0; i < step; ++i) lanes[i] += lanes[i + step];
    }
    const float factor = 1.0f / std::sqrt(lanes[0] / float(n) + 1e-5f);
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = x[i] / std::sqrt(squares / n + 1e-5) * w[i];
      ASSERT_NEAR(y[i], exact, 1e-6 * std::abs(exact)) << n;
      ASSERT_EQ(y[i], x[i] * factor * w[i]);
    }
    for (Isa isa : available_isas()) {
      auto z = x;
      kernels(isa).rms_norm(z.data(), w.data(), 1e-5f, n, z.data());  // in place
      expect_same_bits(z, y, "rms_norm");
    }
  }
}

TEST(Rope, RotatesBothLayouts) {
  Trial trial(2);
  for (bool interleaved : {false, true}) {
    for (const auto& [head_dim, pairs] : {std::pair{64, 32},
                                          {64, 16},
                                          {16, 8},
                                          {80, 40},
                                          {96, 48},
                                          {128, 64},
                                          {256, 128},
                                          {80, 13}}) {
      const int heads = 3;
      const auto x = trial.normals(heads * head_dim);
      std::vector<float> table;
      for (int i = 0; i < pairs; ++i) table.push_back(std::cos(float(i) * 0.7f + 0.3f));
      for (int i = 0; i < pairs; ++i) table.push_back(std::sin(float(i) * 0.7f + 0.3f));
      auto y = x;
      kernels(Isa::kScalar).rope(y.data(), heads, head_dim, pairs, interleaved, table.data());
      auto expected = std::vector<double>(x.begin(), x.end());
      for (int h = 0; h < heads; ++h) {
        for (int i = 0; i < pairs; ++i) {
          const size_t a = size_t(h * head_dim + (interleaved ? 2 * i : i));
          const size_t b = size_t(h * head_dim + (interleaved ? 2 * i + 1 : i + pairs));
          const double c = table[size_t(i)], s = table[size_t(i + pairs)];
          expected[a] = x[a] * c - x[b] * s;
          expected[b] = x[b] * c + x[a] * s;
        }
      }
      for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(y[i], expected[i], 4e-7 * 4);
      for (Isa isa : available_isas()) {
        auto z = x;
        kernels(isa).rope(z.data(), heads, head_dim, pairs, interleaved, table.data());
        expect_same_bits(z, y, "rope");
      }
    }
  }
}

TEST(Rope, LayoutsAreEqualUpToOrder) {
  Trial trial(3);
  const int dim = 64, pairs = 32;
  const auto x = trial.normals(dim), table = trial.normals(2 * pairs);
  std::vector<float> halves(dim), mixed = x;
  for (int i = 0; i < pairs; ++i) {
    halves[size_t(i)] = x[size_t(2 * i)];
    halves[size_t(i + pairs)] = x[size_t(2 * i + 1)];
  }
  kernels().rope(mixed.data(), 1, dim, pairs, true, table.data());
  kernels().rope(halves.data(), 1, dim, pairs, false, table.data());
  for (int i = 0; i < pairs; ++i) {
    EXPECT_EQ(halves[size_t(i)], mixed[size_t(2 * i)]);
    EXPECT_EQ(halves[size_t(i + pairs)], mixed[size_t(2 * i + 1)]);
  }
}

TEST(Elementwise, OneRoundingPerElement) {
  Trial trial(4);
  for (Isa isa : available_isas()) {
    const Kernels& k = kernels(isa);
    for (int n : {0, 1, 7, 16, 33, 1000}) {
      const auto x = trial.normals(n), y0 = trial.normals(n);
      auto y = y0;
      k.add(x.data(), n, y.data());
      for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], y0[i] + x[i]);
      y = y0;
      k.add_scaled(0.37f, x.data(), n, y.data());
      for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], std::fma(0.37f, x[i], y0[i]));
      y = y0;
      k.scale(-1.7f, n, y.data());
      for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], y0[i] * -1.7f);
    }
  }
}

TEST(StoreKv, PutsRoundedValuesWhereTheLayoutSays) {
  Trial trial(5);
  for (KvType type : {KvType::kF16, KvType::kF32, KvType::kI8}) {
    for (int head_dim : {16, 48, 64, 80, 128}) {
      const KvLayout layout{.type = type, .layers = 2, .heads = 3, .head_dim = head_dim};
      const int n = layout.heads * head_dim;
      auto k = trial.normals(n, 5.0f), v = trial.normals(n, 0.01f);
      for (int d = 0; d < head_dim; ++d) v[size_t(d)] = 0;  // a head of zeros
      if (type != KvType::kI8) {
        const auto special = adversarial_floats();
        for (size_t i = 0; i < special.size() && i < k.size(); ++i) k[i] = special[i];
      }
      std::vector<std::byte> first(layout.page_bytes(), std::byte{0x5a});
      for (Isa isa : available_isas()) {
        std::vector<std::byte> page(layout.page_bytes(), std::byte{0x5a});
        for (int layer : {0, 1}) {
          for (int slot : {0, 7, 31})
            kernels(isa).store_kv(layout, layer, k.data(), v.data(), page.data(), slot);
        }
        if (isa == Isa::kScalar) first = page;
        ASSERT_EQ(page, first) << name(isa);
      }
      const int layer = 1, slot = 7;
      for (int h = 0; h < layout.heads; ++h) {
        const std::byte* k_block = first.data() + layout.offset(layer, h);
        const std::byte* v_block = k_block + layout.block_bytes();
        const float* kh = k.data() + h * head_dim;
        const float* vh = v.data() + h * head_dim;
        float k_max = 0, v_max = 0;
        for (int d = 0; d < head_dim; ++d) {
          k_max = std::max(k_max, std::abs(kh[d]));
          v_max = std::max(v_max, std::abs(vh[d]));
        }
        for (int d = 0; d < head_dim; ++d) {
          const size_t at_k = size_t(d * 32 + slot), at_v = size_t(slot * head_dim + d);
          if (type == KvType::kF32) {
            ASSERT_TRUE(same_bits(reinterpret_cast<const float*>(k_block)[at_k], kh[d]));
            ASSERT_TRUE(same_bits(reinterpret_cast<const float*>(v_block)[at_v], vh[d]));
          } else if (type == KvType::kF16) {
            ASSERT_EQ(reinterpret_cast<const uint16_t*>(k_block)[at_k], float_to_half(kh[d]));
            ASSERT_EQ(reinterpret_cast<const uint16_t*>(v_block)[at_v], float_to_half(vh[d]));
          } else {
            const auto quantised = [](float x, float top) {
              return top == 0 ? 0 : int(std::nearbyint(x * (127.0f / top)));
            };
            ASSERT_EQ(reinterpret_cast<const int8_t*>(k_block)[at_k], quantised(kh[d], k_max));
            ASSERT_EQ(reinterpret_cast<const int8_t*>(v_block)[at_v], quantised(vh[d], v_max));
          }
        }
        if (type == KvType::kI8) {
          const size_t scales = size_t(head_dim) * 32;
          ASSERT_EQ(reinterpret_cast<const float*>(k_block + scales)[slot], k_max / 127.0f);
          ASSERT_EQ(reinterpret_cast<const float*>(v_block + scales)[slot], v_max / 127.0f);
        }
      }
      // neighbours stay untouched
      const std::byte* other = first.data() + layout.offset(1, 0);
      EXPECT_EQ(other[8 * layout.element_bytes()], std::byte{0x5a});
    }
  }
}

}  // namespace
}  // namespace tutti::tensor
