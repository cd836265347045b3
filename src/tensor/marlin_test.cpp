// The layouts against the sheet's golden words and against the permutation lists of the reference
// code, which build the order from the other end: which weight stands at a place, instead of where
// a weight goes.
#include "tensor/marlin.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>

#include "base/error.h"
#include "base/half.h"
#include "tensor/marlin_layout.h"

namespace tutti::tensor {
namespace {

uint32_t crc32(const std::vector<uint32_t>& words) {
  uint32_t crc = 0xffffffffu;
  for (const uint32_t word : words) {
    for (int byte = 0; byte < 4; ++byte) {
      crc ^= word >> (8 * byte) & 0xff;
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
  }
  return ~crc;
}

Grid empty_grid(int in, int out, int group) {
  Grid grid;
  grid.in = in;
  grid.out = out;
  grid.group = group;
  grid.codes.assign(size_t(in) * size_t(out), 8);
  grid.scales.assign(size_t(grid.group_count()) * size_t(out), 1.0f);
  return grid;
}

Grid random_grid(int in, int out, int group, std::mt19937& random) {
  Grid grid = empty_grid(in, out, group);
  for (uint8_t& q : grid.codes) q = uint8_t(random() & 15);
  for (float& s : grid.scales) s = half_to_float(uint16_t(0x2000 + random() % 0x1000));
  return grid;
}

// Two random of each four inputs, some of them zero too.
Grid random_sparse_grid(int in, int out, int group, std::mt19937& random) {
  Grid grid = random_grid(in, out, group, random);
  for (int k = 0; k < in; k += 4) {
    for (int n = 0; n < out; ++n) {
      std::array<int, 4> order{0, 1, 2, 3};
      std::shuffle(order.begin(), order.end(), random);
      for (int i = 0; i < 2; ++i) {
        if (k + order[size_t(i)] < in)
          grid.codes[size_t(k + order[size_t(i)]) * size_t(out) + size_t(n)] = 8;
      }
    }
  }
  return grid;
}

// The reference's `_get_perms`: entry p is the offset, in 16 rows of four tiles, of the weight at
// place p.
std::vector<int> reference_order(bool sparse) {
  std::vector<int> order;
  for (int i = 0; i < 32; ++i) {
    std::vector<int> eight;
    const int column = i / 4;
    for (int block = 0; block < 2; ++block) {
      for (const int row : {2 * (i % 4), 2 * (i % 4) + 1, 2 * (i % 4 + 4), 2 * (i % 4 + 4) + 1}) {
        eight.push_back(sparse ? 16 * row + column / 2 * 256 + 8 * (column % 2) + 4 * block
                               : 16 * row + column + 8 * block);
      }
    }
    for (int j = 0; j < 4; ++j) {
      for (const int p : {0, 2, 4, 6, 1, 3, 5, 7})
        order.push_back(eight[size_t(p)] + (sparse ? j : 256 * j));
    }
  }
  return order;
}

// Rows of 16 inputs; within them tiles of [16][16], four of which make 1,024 places.
std::vector<uint32_t> reference_words(const std::vector<uint8_t>& codes, int in, int out,
                                      bool sparse) {
  const std::vector<int> order = reference_order(sparse);
  std::vector<uint32_t> words(size_t(in / 16) * 2 * size_t(out));
  for (int row = 0; row < in / 16; ++row) {
    for (int chunk = 0; chunk < out / 64; ++chunk) {
      for (int p = 0; p < 1024; ++p) {
        const int tile = order[size_t(p)] / 256, r = order[size_t(p)] % 256 / 16,
                  c = order[size_t(p)] % 16;
        const uint32_t q =
            codes[size_t(row * 16 + r) * size_t(out) + size_t(chunk * 64 + tile * 16 + c)];
        words[size_t(row) * 2 * size_t(out) + size_t(chunk * 128 + p / 8)] |= q << (4 * (p % 8));
      }
    }
  }
  return words;
}

TEST(Marlin, GoldenWords) {
  Grid grid = empty_grid(128, 256, 128);
  for (int k = 0; k < 128; ++k) {
    for (int n = 0; n < 256; ++n) grid.codes[size_t(k * 256 + n)] = uint8_t((7 * k + 3 * n) % 16);
  }
  const MarlinLayer layer = pack_marlin(grid);
  ASSERT_EQ(layer.words.size(), size_t(8 * 512));
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(layer.words[size_t(i)], 0x7ff70880u) << i;
    EXPECT_EQ(layer.words[size_t(4 + i)], 0x5dd5e66eu) << i;
    EXPECT_EQ(layer.words[size_t(8 * 512 - 4 + i)], 0x6ee6f77fu) << i;
  }
  EXPECT_EQ(crc32(layer.words), 0xf6fcf9d2u);
}

TEST(Marlin, PlacesOfTheSheet) {
  const auto expect = [](int k, int n, MarlinPlace wanted) {
    const MarlinPlace place = marlin_place(k, n);
    EXPECT_EQ(place.row, wanted.row) << k << ", " << n;
    EXPECT_EQ(place.word, wanted.word) << k << ", " << n;
    EXPECT_EQ(place.nibble, wanted.nibble) << k << ", " << n;
  };
  expect(1, 0, {0, 0, 4});
  expect(8, 0, {0, 0, 1});
  expect(0, 8, {0, 0, 2});
  expect(9, 8, {0, 0, 7});
  expect(2, 0, {0, 4, 0});
  expect(0, 1, {0, 16, 0});
  expect(0, 16, {0, 1, 0});
  expect(0, 64, {0, 128, 0});
}

TEST(Marlin, OrderIsThatOfTheReference) {
  std::mt19937 random(1);
  for (const auto& [in, out] : {std::pair{128, 256}, {256, 512}, {384, 256}}) {
    const Grid grid = random_grid(in, out, 128, random);
    EXPECT_EQ(pack_marlin(grid).words, reference_words(grid.codes, in, out, false))
        << in << " x " << out;
  }
}

TEST(Marlin, ScalesAreInTheReferencesOrder) {
  std::mt19937 random(2);
  const Grid grouped = random_grid(256, 256, 128, random),
             whole = random_grid(256, 256, 256, random);
  const MarlinLayer a = pack_marlin(grouped), b = pack_marlin(whole);
  EXPECT_EQ(a.group, 128);
  EXPECT_EQ(b.group, -1);
  for (int g = 0; g < 2; ++g) {
    for (int block = 0; block < 256; block += 64) {
      for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j)
          EXPECT_EQ(a.scales[size_t(g * 256 + block + 8 * i + j)],
                    grouped.scales[size_t(g * 256 + block + i + 8 * j)]);
      }
    }
  }
  for (int block = 0; block < 256; block += 32) {
    int place = block;
    for (int i = 0; i < 4; ++i) {
      for (const int j : {0, 1, 8, 9, 16, 17, 24, 25})
        EXPECT_EQ(b.scales[size_t(place++)], whole.scales[size_t(block + 2 * i + j)]);
    }
  }
}

// A grid of any size comes back, with zero weights around it.
void expect_round_trip(const Grid& grid, const MarlinLayer& layer) {
  EXPECT_EQ(layer.in % kMarlinInputs, 0);
  EXPECT_EQ(layer.out % kMarlinOutputs, 0);
  const Grid back = unpack_marlin(layer);
  ASSERT_GE(back.in, grid.in);
  ASSERT_GE(back.out, grid.out);
  EXPECT_LT(back.in, grid.in + std::max(kMarlinInputs, grid.group));
  const std::vector<float> wanted = grid.dequantised(), got = back.dequantised();
  for (int n = 0; n < back.out; ++n) {
    for (int k = 0; k < back.in; ++k) {
      const float w =
          k < grid.in && n < grid.out ? wanted[size_t(n) * size_t(grid.in) + size_t(k)] : 0.0f;
      ASSERT_EQ(got[size_t(n) * size_t(back.in) + size_t(k)], w)
          << "input " << k << ", output " << n;
    }
  }
}

TEST(Marlin, AnySizeComesBackPadded) {
  std::mt19937 random(3);
  for (const int group : {32, 64, 128, 100000}) {
    for (const auto& [in, out] :
         {std::pair{576, 192}, {576, 1536}, {64, 1}, {130, 300}, {1, 257}}) {
      SCOPED_TRACE(std::to_string(in) + " x " + std::to_string(out) + ", groups of " +
                   std::to_string(group));
      const Grid dense = random_grid(in, out, std::min(group, in), random);
      expect_round_trip(dense, pack_marlin(dense));
      const Grid sparse = random_sparse_grid(in, out, std::min(group, in), random);
      expect_round_trip(sparse, pack_sparse_marlin(sparse));
    }
  }
}

TEST(SparseMarlin, WordsAndIndicesAreTheReferences) {
  std::mt19937 random(4);
  const int in = 256, out = 256;
  const Grid grid = random_sparse_grid(in, out, 128, random);
  const MarlinLayer layer = pack_sparse_marlin(grid);
  ASSERT_EQ(layer.words.size(), size_t(in / 32 * 2 * out));
  ASSERT_EQ(layer.indices.size(), layer.words.size());
  // The kept values, and the two-bit pairs four to a word, straight from the definition.
  std::vector<uint8_t> kept(size_t(in / 2 * out));
  std::vector<uint16_t> pairs(size_t(out * in / 16));
  for (int n = 0; n < out; ++n) {
    for (int k = 0; k < in; k += 4) {
      const auto code = [&](int i) { return grid.codes[size_t((k + i) * out + n)]; };
      int a = -1, b = -1;
      for (int i = 0; i < 4; ++i) {
        for (int j = i + 1; j < 4; ++j) {
          int outside = 0;
          for (int other = 0; other < 4; ++other)
            outside += other != i && other != j && code(other) != 8;
          // Of several pairs that hold all non-zeros: PyTorch takes {0,2} for 0 alone, {1,2} for 1,
          // else {2,3}.
          const bool zero_alone = code(1) == 8 && code(2) == 8 && code(3) == 8 && code(0) != 8;
          const bool one_alone = code(0) == 8 && code(2) == 8 && code(3) == 8 && code(1) != 8;
          if (zero_alone && (i != 0 || j != 2)) continue;
          if (one_alone && (i != 1 || j != 2)) continue;
          if (outside == 0) a = i, b = j;  // the last one that fits
        }
      }
      ASSERT_GE(a, 0);
      kept[size_t(k / 2 * out + n)] = code(a);
      kept[size_t((k / 2 + 1) * out + n)] = code(b);
      pairs[size_t(n * (in / 16) + k / 16)] |= uint16_t((a | b << 2) << (4 * (k % 16 / 4)));
    }
  }
  EXPECT_EQ(layer.words, reference_words(kept, in / 2, out, true));
  // The scatter of CUTLASS, step by step as the reference does it.
  std::vector<uint16_t> scattered(pairs.size());
  for (int r = 0; r < out; ++r) {
    for (int c = 0; c < in / 16; ++c) {
      int row = r / 64 * 64 + r % 2 * 2 + r % 8 / 4 + r % 32 % 4 / 2 * 32 + r % 64 / 8 * 4,
          column = c;
      const int shift = int(row % 2 == 0 && column % 2 == 1) - int(row % 2 == 1 && column % 2 == 0);
      row += shift;
      column -= shift;
      scattered[size_t(column / 2 * out * 2 + row * 2 + column % 2)] =
          pairs[size_t(r * (in / 16) + c)];
    }
  }
  EXPECT_EQ(layer.indices, scattered);
  for (int g = 0; g < 2; ++g) {
    for (int n = 0; n < out; n += 8) {
      int place = n;
      for (const int j : {0, 4, 1, 5, 2, 6, 3, 7})
        EXPECT_EQ(layer.scales[size_t(g * out + place++)], grid.scales[size_t(g * out + n + j)]);
    }
  }
}

TEST(SparseMarlin, NegativeWeightsAreKept) {
  Grid grid = empty_grid(128, 256, 128);
  for (int k = 0; k < 128; k += 4) {
    for (int n = 0; n < 256; ++n) {
      grid.codes[size_t((k + 1) * 256 + n)] = 3;  // -5 and -7: below the code of zero
      grid.codes[size_t((k + 3) * 256 + n)] = 1;
    }
  }
  const Grid back = unpack_marlin(pack_sparse_marlin(grid));
  EXPECT_EQ(back.codes, grid.codes);
}

template <class Act>
std::string message_of(ErrorKind kind, const Act& act) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(int(error.kind()), int(kind)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST(Marlin, RefusesWhatTheLayoutCannotSay) {
  const auto refused = [](Grid grid) {
    return message_of(ErrorKind::kUsage, [&] { pack_marlin(grid); });
  };
  Grid eight = empty_grid(128, 256, 128);
  eight.bits = 8;
  EXPECT_NE(refused(eight).find("8 bits"), std::string::npos);
  Grid zeros = empty_grid(128, 256, 128);
  zeros.zeros.assign(256, 7);
  EXPECT_NE(refused(zeros).find("zero points"), std::string::npos);
  Grid order = empty_grid(128, 256, 64);
  order.groups.assign(128, 1);
  EXPECT_NE(refused(order).find("order of activations"), std::string::npos);
  Grid dense = empty_grid(128, 256, 128);
  for (int i = 0; i < 3; ++i) dense.codes[size_t((44 + i) * 256 + 7)] = 9;
  const std::string message = message_of(ErrorKind::kUsage, [&] { pack_sparse_marlin(dense); });
  EXPECT_NE(message.find("44 to 47 of output 7"), std::string::npos) << message;
}

TEST(Marlin, RefusesDamagedLayers) {
  std::mt19937 random(5);
  const MarlinLayer good = pack_sparse_marlin(random_sparse_grid(128, 256, 64, random));
  const auto refused = [&](auto damage) {
    MarlinLayer layer = good;
    damage(layer);
    message_of(ErrorKind::kBadFile, [&] { unpack_marlin(layer); });
  };
  refused([](MarlinLayer& l) { l.words.pop_back(); });
  refused([](MarlinLayer& l) { l.indices.push_back(0); });
  refused([](MarlinLayer& l) { l.scales.resize(3); });
  refused([](MarlinLayer& l) { l.group = 48; });
  refused([](MarlinLayer& l) { l.out = 100; });
  refused([](MarlinLayer& l) { l.in = 0; });
  refused([](MarlinLayer& l) { l.indices[17] = 0; });  // both kept values at place 0
}

}  // namespace
}  // namespace tutti::tensor
