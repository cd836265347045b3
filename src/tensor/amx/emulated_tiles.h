// The Tiles of tiles.h in plain C++, for tests: each instruction as Intel's manual defines it
// (volume 2: LDTILECFG, TILELOADD, TILEZERO, TDPBSUD, TILESTORED). What the processor refuses (#UD,
// #GP) throws std::logic_error.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace tutti::tensor::amx {

class EmulatedTiles {
 public:
  void configure(int first_rows, int second_rows, int inputs) {
    const int rows[2] = {first_rows, second_rows};
    tiles_ = {};
    for (int i = 0; i < 2; ++i) {
      shape(kRows + i, rows[i], inputs);
      shape(kWeights + i, inputs / 4, 64);
      for (int j = 0; j < 2; ++j) shape(2 * i + j, rows[i], 64);
    }
  }

  template <int a, int b>
  void zero() {
    configured(2 * a + b).bytes = {};
  }
  template <int a>
  void load_rows(const int8_t* p, size_t stride) {
    load(kRows + a, p, stride);
  }
  template <int b>
  void load_weights(const uint8_t* p) {
    load(kWeights + b, p, 64);
  }
  template <int a, int b>
  void dot() {
    Tile& c = configured(2 * a + b);
    const Tile &x = configured(kRows + a), &w = configured(kWeights + b);
    if (x.rows != c.rows || w.row_bytes != c.row_bytes || w.rows != x.row_bytes / 4)
      throw std::logic_error("TDPBSUD: tiles of other shapes");
    for (int m = 0; m < c.rows; ++m) {
      for (int n = 0; n < c.row_bytes / 4; ++n) {
        uint32_t sum;
        std::memcpy(&sum, &c.bytes[size_t(64 * m + 4 * n)], 4);
        for (int k = 0; k < x.row_bytes / 4; ++k) {
          for (int i = 0; i < 4; ++i) {
            const int left = int8_t(x.bytes[size_t(64 * m + 4 * k + i)]);
            const int right = w.bytes[size_t(64 * k + 4 * n + i)];
            sum += uint32_t(left * right);
          }
        }
        std::memcpy(&c.bytes[size_t(64 * m + 4 * n)], &sum, 4);
      }
    }
  }
  template <int a, int b>
  void store(int32_t* p) {
    const Tile& c = configured(2 * a + b);
    for (int m = 0; m < c.rows; ++m)
      std::memcpy(p + 16 * m, &c.bytes[size_t(64 * m)], size_t(c.row_bytes));
  }

 private:
  static constexpr int kRows = 4, kWeights = 6;

  struct Tile {
    int rows = 0, row_bytes = 0;
    std::array<uint8_t, 1024> bytes{};
  };

  Tile& configured(int tile) {
    Tile& t = tiles_[size_t(tile)];
    if (t.rows == 0) throw std::logic_error("a tile that is not configured");
    return t;
  }
  void shape(int tile, int rows, int row_bytes) {
    if (rows < 1 || rows > 16 || row_bytes < 4 || row_bytes > 64 || row_bytes % 4 != 0)
      throw std::logic_error("LDTILECFG: a shape beyond palette 1");
    tiles_[size_t(tile)].rows = rows;
    tiles_[size_t(tile)].row_bytes = row_bytes;
  }
  void load(int tile, const void* p, size_t stride) {
    Tile& t = configured(tile);
    t.bytes = {};
    for (int r = 0; r < t.rows; ++r) {
      std::memcpy(&t.bytes[size_t(64 * r)], static_cast<const uint8_t*>(p) + size_t(r) * stride,
                  size_t(t.row_bytes));
    }
  }

  std::array<Tile, 8> tiles_;
};

}  // namespace tutti::tensor::amx
