// The tiles of AMX, as few names as products.inc needs. Two tiles of rows (up to 16 rows of signed
// bytes), two of weights (16 outputs of unsigned bytes, four inputs side by side, as packing.h has
// them) and four of sums: sum (a, b) is rows a times weights b. emulated_tiles.h is the same in
// plain C++; tests run products.inc over that one, as no machine that builds this project has AMX.
//
// Instructions stand as assembly, not as intrinsics: g++ 12's intrinsics do not tell the compiler
// that memory is read, and it drops the configuration's bytes before LDTILECFG. Everything is
// internal to the file that includes it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tutti::tensor::amx {
namespace {

class Tiles {
 public:
  Tiles() = default;
  // Back to the initial state, so that the system has no tiles to save when it switches threads.
  ~Tiles() { __asm__ volatile("tilerelease" ::: "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  // Rows (1 to 16) of the two tiles of rows, and inputs (16, 32 or 64) that a tile holds. All
  // contents are lost.
  void configure(int first_rows, int second_rows, int inputs) {
    if (first_rows == rows_[0] && second_rows == rows_[1] && inputs == inputs_) return;
    rows_[0] = first_rows;
    rows_[1] = second_rows;
    inputs_ = inputs;
    Configuration c{};
    c.palette = 1;
    for (int i = 0; i < 2; ++i) {
      shape(c, kRows + i, rows_[i], inputs);
      shape(c, kWeights + i, inputs / 4, 64);
      for (int j = 0; j < 2; ++j) shape(c, 2 * i + j, rows_[i], 64);
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
  }

  template <int a, int b>
  void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(2 * a + b));
  }
  // The configured rows, `stride` bytes apart.
  template <int a>
  void load_rows(const int8_t* p, size_t stride) {
    load<kRows + a>(p, stride);
  }
  // Groups of four inputs, 64 bytes each.
  template <int b>
  void load_weights(const uint8_t* p) {
    load<kWeights + b>(p, 64);
  }
  // sum (a, b) += rows a * weights b, exactly, modulo 2^32.
  template <int a, int b>
  void dot() {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(2 * a + b), "i"(kRows + a),
                     "i"(kWeights + b));
  }
  // To p[row * 16 + output].
  template <int a, int b>
  void store(int32_t* p) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(2 * a + b), "r"(p), "r"(size_t(64))
                     : "memory");
  }

 private:
  static constexpr int kRows = 4, kWeights = 6;

  // What LDTILECFG reads.
  struct Configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
  static_assert(sizeof(Configuration) == 64);

  static void shape(Configuration& c, int tile, int rows, int row_bytes) {
    c.rows[tile] = uint8_t(rows);
    c.row_bytes[tile] = uint16_t(row_bytes);
  }

  template <int tile>
  void load(const void* p, size_t stride) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(tile), "r"(p), "r"(stride) : "memory");
  }

  int rows_[2] = {0, 0}, inputs_ = 0;
};

}  // namespace
}  // namespace tutti::tensor::amx
