// The products with AVX2, FMA and F16C: lanes are 8 outputs, half a tile. Up to 4 rows share one
// unpacking of the weights; the arithmetic of each output is that of the scalar level whatever the
// number of rows. No inline function of a header that other files use is called here (see
// MatrixView).
//
// maddubs adds two products in 16 bits with saturation. It is used only where the sum fits, as
// activations are within +-127: 4-bit quants 8 groups of 2 * 15 * 127 (30480), 5-bit 4 groups of 2
// * 31 * 127 (31496), 6-bit 2 groups of 2 * 63 * 127 (32004), and 8-bit, as magnitude times signed
// activation, one of 2 * 128 * 127 (32512).
#include <immintrin.h>

#include <cstring>

#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::avx2 {
namespace {

constexpr int kRowBlock = 32;       // rows between two passes over a tile
constexpr size_t kPrefetch = 2560;  // bytes ahead in the one-row products

// What depends on a row and a block only, computed once per panel and row block and used by every
// tile. Row r's terms for 32 elements each stand at r * stride.
constexpr int kTerms = 1024;
struct RowTerms {
  float minimum[kTerms];  // small blocks with a minimum: d_a * sum of the block's q
  int32_t start[kTerms];  // small blocks: -offset * sum of the block's q
  int32_t pairs[kTerms];  // K-quants: sums of two sub-blocks as 16-bit halves
  int stride;
};

// How many of `left` rows share an unpacked weight.
inline int group_of(int left) { return left >= 4 ? 4 : left >= 2 ? 2 : 1; }

inline int32_t word(const void* p) {
  int32_t w;
  std::memcpy(&w, p, sizeof w);
  return w;
}

inline __m256 halves_of(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline __m256i chunk(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline __m256i lanes_below(int outputs) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(outputs), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Four groups of a sub-block (of one half of the tile) as unsigned bytes: 4-bit types and the low bits of the others.
inline __m256i low_nibbles(__m256i both) { return _mm256_and_si256(both, _mm256_set1_epi8(15)); }
inline __m256i high_nibbles(__m256i both) { return low_nibbles(_mm256_srli_epi16(both, 4)); }

// Group g of a sub-block of 5 or 6 bits.
template <int bits>
inline __m256i wide_group(const uint8_t* sub, int g) {
  const __m256i both = chunk(sub + 64 * (g % 4));
  const __m256i nibbles = g < 4 ? low_nibbles(both) : high_nibbles(both);
  if constexpr (bits == 5) {
    const __m256i plane = chunk(sub + 256);
    const __m256i moved =
        g < 4 ? _mm256_slli_epi16(plane, (4 - g) & 7) : _mm256_srli_epi16(plane, (g - 4) & 7);
    return _mm256_or_si256(nibbles, _mm256_and_si256(moved, _mm256_set1_epi8(16)));
  } else {
    const __m256i plane = chunk(sub + 256 + 64 * (g / 4));
    const int i = g % 4;
    const __m256i moved =
        i < 3 ? _mm256_slli_epi16(plane, (4 - 2 * i) & 7) : _mm256_srli_epi16(plane, 2);
    return _mm256_or_si256(nibbles, _mm256_and_si256(moved, _mm256_set1_epi8(48)));
  }
}

inline __m256i spread(const int8_t* a) { return _mm256_set1_epi32(word(a)); }
inline __m256i widened(__m256i narrow) { return _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)); }

// The exact dots of one sub-block of 32 with the bytes of `rows` rows, for `halves` halves of the tile: dot r * halves
// + h. Groups are taken as they are unpacked, so that few registers hold weights. With 6 bits, `dot` gets the first 16
// elements and `second` the others (they have scales of their own).
template <int bits, int rows, int halves>
inline void dots(const uint8_t* sub, const int8_t* a, size_t a_stride,
                 __m256i (&dot)[rows * halves], __m256i* second) {
  __m256i narrow[rows * halves];
  if constexpr (bits == 4) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      __m256i low[halves], high[halves];
#pragma GCC unroll 2
      for (int h = 0; h < halves; ++h) {
        const __m256i both = chunk(sub + 64 * c + 32 * h);
        low[h] = low_nibbles(both);
        high[h] = high_nibbles(both);
      }
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const int8_t* from = a + size_t(r) * a_stride + 4 * c;
        const __m256i x = spread(from), y = spread(from + 16);
#pragma GCC unroll 2
        for (int h = 0; h < halves; ++h) {
          __m256i& n = narrow[r * halves + h];
          const __m256i two =
              _mm256_add_epi16(_mm256_maddubs_epi16(low[h], x), _mm256_maddubs_epi16(high[h], y));
          n = c == 0 ? two : _mm256_add_epi16(n, two);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows * halves; ++i) dot[i] = widened(narrow[i]);
    return;
  }
  constexpr int kFit = bits == 5 ? 4 : bits == 6 ? 2 : 1;  // groups whose 16-bit sums fit
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    __m256i w[halves], magnitude[halves];
#pragma GCC unroll 2
    for (int h = 0; h < halves; ++h) {
      if constexpr (bits == 8) {
        w[h] = _mm256_xor_si256(chunk(sub + 64 * g + 32 * h), _mm256_set1_epi8(-128));
        magnitude[h] = _mm256_abs_epi8(w[h]);
      } else {
        w[h] = wide_group<bits>(sub + 32 * h, g);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const __m256i x = spread(a + size_t(r) * a_stride + 4 * g);
#pragma GCC unroll 2
      for (int h = 0; h < halves; ++h) {
        const int i = r * halves + h;
        __m256i products;
        if constexpr (bits == 8) {
          products = _mm256_maddubs_epi16(magnitude[h], _mm256_sign_epi8(x, w[h]));
        } else {
          products = _mm256_maddubs_epi16(w[h], x);
        }
        narrow[i] = g % kFit == 0 ? products : _mm256_add_epi16(narrow[i], products);
        if (g % kFit != kFit - 1) continue;
        __m256i& sum = bits == 6 && g >= 4 ? second[i] : dot[i];
        const bool first = g < kFit || (bits == 6 && g == 4 + kFit - 1);
        sum = first ? widened(narrow[i]) : _mm256_add_epi32(sum, widened(narrow[i]));
      }
    }
  }
}

// The rows of one call: pointers at the first row and the panel's first block.
struct Rows {
  const int8_t* a;
  size_t a_stride;
  const float* scales;
  size_t scale_stride;
  const float* minimum;
  const int32_t* start;
  const int32_t* pairs;
  int stride;  // of the three
};

// Few rows are bound by memory: the first to pass over a tile asks for the weights well ahead of their use.
template <bool ahead>
inline void prefetch(const uint8_t* p, int bytes) {
  if constexpr (ahead) {
    for (int i = 0; i < bytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(p) + kPrefetch + i, _MM_HINT_T0);
    }
  }
}

// Blocks of 32: adds `blocks` blocks to the chains of `rows` rows.
template <Type type, int rows, int halves, bool ahead>
inline void small_blocks(const uint8_t* quants, const uint8_t* records, int blocks, const Rows& x,
                         __m256 (&sum)[rows * halves]) {
  constexpr PackedShape shape = packed_shape(type);
  constexpr bool starts = shape.offset != 0 && shape.bits != 8;
  for (int b = 0; b < blocks; ++b, quants += shape.sub_bytes, records += shape.record_bytes) {
    prefetch<ahead>(quants, shape.sub_bytes);
    __m256i dot[rows * halves];
    dots<shape.bits, rows, halves>(quants, x.a + 32 * b, x.a_stride, dot, nullptr);
#pragma GCC unroll 2
    for (int h = 0; h < halves; ++h) {
      const __m256 d = halves_of(records + 16 * h);
      const __m256 m = shape.minimum ? halves_of(records + 32 + 16 * h) : _mm256_setzero_ps();
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const int i = r * halves + h;
        if constexpr (starts) {
          dot[i] = _mm256_add_epi32(dot[i], _mm256_set1_epi32(x.start[r * x.stride + b]));
        }
        const __m256 scale =
            _mm256_mul_ps(d, _mm256_set1_ps(x.scales[size_t(r) * x.scale_stride + size_t(b)]));
        sum[i] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot[i]), sum[i]);
        if constexpr (shape.minimum) {
          sum[i] = _mm256_fmadd_ps(m, _mm256_set1_ps(x.minimum[r * x.stride + b]), sum[i]);
        }
      }
    }
  }
}

// 8 outputs x 2 sub-blocks of bytes as 16-bit pairs.
template <bool is_signed>
inline __m256i pair_of_scales(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return is_signed ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
}
inline __m256i even_scales(__m256i pair) {
  return _mm256_srai_epi32(_mm256_slli_epi32(pair, 16), 16);
}
inline __m256i odd_scales(__m256i pair) { return _mm256_srai_epi32(pair, 16); }

// Blocks of 256.
template <Type type, int rows, int halves, bool ahead>
inline void large_blocks(const uint8_t* quants, const uint8_t* records, int blocks, const Rows& x,
                         __m256 (&sum)[rows * halves]) {
  constexpr PackedShape shape = packed_shape(type);
  constexpr bool six = shape.bits == 6;
  for (int b = 0; b < blocks; ++b, records += shape.record_bytes) {
    __m256i total[rows * halves];
#pragma GCC unroll 4
    for (int i = 0; i < rows * halves; ++i) {
      const int r = i / halves, h = i % halves;
      total[i] = _mm256_setzero_si256();
      if constexpr (six) {  // -32 * sum of scale * sum of q
        for (int p = 0; p < 8; ++p) {
          const __m256i sums = _mm256_set1_epi32(x.pairs[r * x.stride + 8 * b + p]);
          total[i] = _mm256_add_epi32(
              total[i],
              _mm256_madd_epi16(pair_of_scales<true>(records + 32 + 32 * p + 16 * h), sums));
        }
        total[i] = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(total[i], 5));
      }
    }
    for (int s = 0; s < 8; ++s, quants += shape.sub_bytes) {
      prefetch<ahead>(quants, shape.sub_bytes);
      __m256i dot[rows * halves], second[rows * halves];
      dots<shape.bits, rows, halves>(quants, x.a + 256 * b + 32 * s, x.a_stride, dot, second);
#pragma GCC unroll 2
      for (int h = 0; h < halves; ++h) {
        const __m256i pair =
            pair_of_scales<six>(records + (six ? 32 + 32 * s : 64 + 32 * (s / 2)) + 16 * h);
        const __m256i scale = six || s % 2 == 0 ? even_scales(pair) : odd_scales(pair);
        const __m256i upper = odd_scales(pair);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          const int i = r * halves + h;
          total[i] = _mm256_add_epi32(total[i], _mm256_mullo_epi32(dot[i], scale));
          if constexpr (six) {
            total[i] = _mm256_add_epi32(total[i], _mm256_mullo_epi32(second[i], upper));
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows * halves; ++i) {
      const int r = i / halves, h = i % halves;
      const __m256 d = halves_of(records + 16 * h);
      const __m256 scale = _mm256_set1_ps(x.scales[size_t(r) * x.scale_stride + size_t(b)]);
      sum[i] = _mm256_fmadd_ps(_mm256_mul_ps(d, scale), _mm256_cvtepi32_ps(total[i]), sum[i]);
      if constexpr (shape.minimum) {
        __m256i minimum = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) {
          const __m256i sums = _mm256_set1_epi32(x.pairs[r * x.stride + 4 * b + p]);
          minimum = _mm256_add_epi32(
              minimum,
              _mm256_madd_epi16(pair_of_scales<false>(records + 192 + 32 * p + 16 * h), sums));
        }
        sum[i] = _mm256_fnmadd_ps(halves_of(records + 32 + 16 * h),
                                  _mm256_mul_ps(scale, _mm256_cvtepi32_ps(minimum)), sum[i]);
      }
    }
  }
}

// One panel of `halves` halves of a tile for `rows` rows. The chain goes on from y unless this is
// the first panel.
template <Type type, int rows, int halves, bool ahead>
inline void panel(const uint8_t* quants, const uint8_t* records, int blocks, const Rows& x,
                  bool begin, float* y, size_t y_stride, int outputs) {
  __m256 sum[rows * halves];
  __m256i lanes[halves];
#pragma GCC unroll 2
  for (int h = 0; h < halves; ++h) lanes[h] = lanes_below(outputs - 8 * h);
#pragma GCC unroll 8
  for (int i = 0; i < rows * halves; ++i) {
    const float* from = y + size_t(i / halves) * y_stride + 8 * (i % halves);
    sum[i] = begin ? _mm256_setzero_ps() : _mm256_maskload_ps(from, lanes[i % halves]);
  }
  if constexpr (packed_shape(type).block == 32) {
    small_blocks<type, rows, halves, ahead>(quants, records, blocks, x, sum);
  } else {
    large_blocks<type, rows, halves, ahead>(quants, records, blocks, x, sum);
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows * halves; ++i) {
    _mm256_maskstore_ps(y + size_t(i / halves) * y_stride + 8 * (i % halves), lanes[i % halves],
                        sum[i]);
  }
}

// Terms of `rows` rows for elements [k, k + length).
template <Type type>
inline void fill_terms(const QuantisedRows& x, int row, int rows, int k, int length,
                       RowTerms& terms) {
  constexpr PackedShape shape = packed_shape(type);
  for (int r = 0; r < rows; ++r) {
    const int32_t* sums = x.sums + size_t(row + r) * size_t(x.n / 16) + k / 16;
    if constexpr (shape.block == 32) {
      const float* scales = x.scales + size_t(row + r) * size_t(x.n / 32) + k / 32;
      for (int b = 0; b < length / 32; ++b) {
        const int32_t sum = sums[2 * b] + sums[2 * b + 1];
        terms.start[r * terms.stride + b] = -shape.offset * sum;
        terms.minimum[r * terms.stride + b] = scales[b] * float(sum);
      }
    } else if constexpr (shape.bits == 6) {
      for (int p = 0; p < length / 32; ++p) {
        terms.pairs[r * terms.stride + p] =
            int32_t(uint32_t(sums[2 * p] & 0xffff) | uint32_t(sums[2 * p + 1]) << 16);
      }
    } else {
      for (int p = 0; p < length / 64; ++p) {
        const int32_t even = sums[4 * p] + sums[4 * p + 1], odd = sums[4 * p + 2] + sums[4 * p + 3];
        terms.pairs[r * terms.stride + p] = int32_t(uint32_t(even & 0xffff) | uint32_t(odd) << 16);
      }
    }
  }
}

// A tile for `count` rows, both halves at once where registers allow it, so that weights are read and activations
// spread once for both; else (four rows of nibbles, which keep a 16-bit sum each) one half after the other. `ahead`:
// nobody has read the tile before.
template <Type type, bool ahead>
inline void tile_rows(int count, const uint8_t* quants, const uint8_t* records, int blocks,
                      const Rows& x, bool begin, float* y, size_t y_stride, int outputs) {
  switch (count) {
    case 4:
      if constexpr (packed_shape(type).bits == 8) {
        panel<type, 4, 2, ahead>(quants, records, blocks, x, begin, y, y_stride, outputs);
      } else {
        panel<type, 4, 1, ahead>(quants, records, blocks, x, begin, y, y_stride, outputs);
        // Within chunks a half is 32 bytes, within rows of halves or of pairs of scales 16.
        if (outputs > 8) {
          panel<type, 4, 1, false>(quants + 32, records + 16, blocks, x, begin, y + 8, y_stride,
                                   outputs - 8);
        }
      }
      break;
    case 2:
      panel<type, 2, 2, ahead>(quants, records, blocks, x, begin, y, y_stride, outputs);
      break;
    default:
      panel<type, 1, 2, ahead>(quants, records, blocks, x, begin, y, y_stride, outputs);
  }
}

template <Type type>
void product(const MatrixView& m, const QuantisedRows& x, int rows, int tile_first, int tile_last,
             float* y, size_t y_stride) {
  constexpr PackedShape shape = packed_shape(type);
  const size_t records_at = packed_records(shape, m.in);
  RowTerms terms;
  for (int row = 0; row < rows; row += kRowBlock) {
    const int some = rows - row < kRowBlock ? rows - row : kRowBlock;
    // A panel is as long as the terms of its rows fit: short for many rows, whose activations then
    // stay in cache.
    const int panel_length = kTerms / (some <= 1 ? 1 : some <= 8 ? 8 : kRowBlock) * 32;
    terms.stride = panel_length / 32;
    for (int k = 0; k < m.in; k += panel_length) {
      const int length = m.in - k < panel_length ? m.in - k : panel_length;
      fill_terms<type>(x, row, some, k, length, terms);
      for (int t = tile_first; t < tile_last; ++t) {
        const uint8_t* tile = reinterpret_cast<const uint8_t*>(m.data) + size_t(t) * m.tile_bytes;
        const uint8_t* quants = tile + size_t(k / 32) * size_t(shape.sub_bytes);
        const uint8_t* records =
            tile + records_at + size_t(k / shape.block) * size_t(shape.record_bytes);
        for (int r = 0; r < some;) {
          const size_t at = size_t(row + r);
          const Rows group{x.q + at * size_t(m.in) + k,
                           size_t(m.in),
                           x.scales + at * size_t(m.in / shape.block) + k / shape.block,
                           size_t(m.in / shape.block),
                           terms.minimum + r * terms.stride,
                           terms.start + r * terms.stride,
                           terms.pairs + r * terms.stride,
                           terms.stride};
          const int count = group_of(some - r);
          const auto take = r == 0 ? tile_rows<type, true> : tile_rows<type, false>;
          take(count, quants, records, length / shape.block, group, k == 0,
               y + at * y_stride + size_t(t) * 16, y_stride, m.out - 16 * t);
          r += count;
        }
      }
    }
  }
}

// ---- dense

// Eight weights: element `i` of the tile and the seven after it.
template <Type type>
inline __m256 weights(const uint8_t* tile, size_t i) {
  if constexpr (type == Type::kF32)
    return _mm256_loadu_ps(reinterpret_cast<const float*>(tile) + i);
  if constexpr (type == Type::kF16) return halves_of(tile + 2 * i);
  const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile + 2 * i));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
}

// `tiles` tiles and `rows` rows at a time: enough independent chains to hide the latency of an fma.
template <Type type, int rows, int tiles>
void dense_tiles(const MatrixView& m, const float* x, size_t x_stride, int t, float* y,
                 size_t y_stride) {
  constexpr int kHalves = 2 * tiles;
  const uint8_t* tile = reinterpret_cast<const uint8_t*>(m.data) + size_t(t) * m.tile_bytes;
  __m256 sum[rows][kHalves];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < kHalves; ++j) sum[r][j] = _mm256_setzero_ps();
  }
  for (int k = 0; k < m.in; ++k) {
    __m256 value[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) value[r] = _mm256_set1_ps(x[size_t(r) * x_stride + size_t(k)]);
#pragma GCC unroll 8
    for (int j = 0; j < kHalves; ++j) {
      const __m256 w =
          weights<type>(tile + size_t(j / 2) * m.tile_bytes, size_t(k) * 16 + size_t(j % 2) * 8);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) sum[r][j] = _mm256_fmadd_ps(w, value[r], sum[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kHalves; ++j) {
    const int output = 16 * t + 8 * j;
    if (output >= m.out) break;
    const __m256i lanes = lanes_below(m.out - output);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      _mm256_maskstore_ps(y + size_t(r) * y_stride + size_t(output), lanes, sum[r][j]);
    }
  }
}

// The same for Q4_0: a nibble becomes (value - 8) * d, the fp32 number that its block stands for, and goes the way of a
// dense weight. One unpacking serves all rows.
template <int rows, int tiles>
void nibble_tiles(const MatrixView& m, const float* x, size_t x_stride, int t, float* y,
                  size_t y_stride) {
  constexpr int kHalves = 2 * tiles;
  constexpr PackedShape shape = packed_shape(Type::kQ4_0);
  const uint8_t* tile = reinterpret_cast<const uint8_t*>(m.data) + size_t(t) * m.tile_bytes;
  const size_t records = packed_records(shape, m.in);
  __m256 sum[rows][kHalves];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < kHalves; ++j) sum[r][j] = _mm256_setzero_ps();
  }
  for (int b = 0; b < m.in / 32; ++b) {
    __m256 d[kHalves];
#pragma GCC unroll 8
    for (int j = 0; j < kHalves; ++j) {
      d[j] = halves_of(tile + size_t(j / 2) * m.tile_bytes + records +
                       size_t(b) * size_t(shape.record_bytes) + 16 * (j % 2));
    }
    for (int g = 0; g < 8; ++g) {
      __m256i four[kHalves];
#pragma GCC unroll 8
      for (int j = 0; j < kHalves; ++j) {
        four[j] = chunk(tile + size_t(j / 2) * m.tile_bytes + size_t(b) * size_t(shape.sub_bytes) +
                        64 * (g % 4) + 32 * (j % 2));
        four[j] = g < 4 ? low_nibbles(four[j]) : high_nibbles(four[j]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        __m256 value[rows];
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r)
          value[r] = _mm256_set1_ps(x[size_t(r) * x_stride + size_t(32 * b + 4 * g + i)]);
#pragma GCC unroll 8
        for (int j = 0; j < kHalves; ++j) {
          const __m256i q = i == 3 ? _mm256_srli_epi32(four[j], 24)
                                   : _mm256_and_si256(_mm256_srli_epi32(four[j], 8 * i),
                                                      _mm256_set1_epi32(15));
          const __m256 w =
              _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(q, _mm256_set1_epi32(8))), d[j]);
#pragma GCC unroll 4
          for (int r = 0; r < rows; ++r) sum[r][j] = _mm256_fmadd_ps(w, value[r], sum[r][j]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kHalves; ++j) {
    const int output = 16 * t + 8 * j;
    if (output >= m.out) break;
    const __m256i lanes = lanes_below(m.out - output);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      _mm256_maskstore_ps(y + size_t(r) * y_stride + size_t(output), lanes, sum[r][j]);
    }
  }
}

template <Type type, int rows>
inline int dense_step(const MatrixView& m, const float* x, size_t x_stride, int t, int tile_last,
                      float* y, size_t y_stride) {
  if constexpr (type == Type::kQ4_0) {
    constexpr int kTiles = rows == 1 ? 2 : 1;
    if (kTiles > 1 && tile_last - t >= kTiles) {
      nibble_tiles<rows, kTiles>(m, x, x_stride, t, y, y_stride);
      return kTiles;
    }
    nibble_tiles<rows, 1>(m, x, x_stride, t, y, y_stride);
    return 1;
  } else {
    constexpr int kTiles = 4 / rows;
    if (kTiles > 1 && tile_last - t >= kTiles) {
      dense_tiles<type, rows, kTiles>(m, x, x_stride, t, y, y_stride);
      return kTiles;
    }
    dense_tiles<type, rows, 1>(m, x, x_stride, t, y, y_stride);
    return 1;
  }
}

template <Type type>
void dense(const MatrixView& m, const float* x, size_t x_stride, int rows, int tile_first,
           int tile_last, float* y, size_t y_stride) {
  // A few tiles stay in cache while the rows pass over them.
  constexpr int kTileBlock = 4;
  for (int first = tile_first; first < tile_last; first += kTileBlock) {
    const int last = tile_last - first < kTileBlock ? tile_last : first + kTileBlock;
    for (int r = 0; r < rows;) {
      const float* from = x + size_t(r) * x_stride;
      float* to = y + size_t(r) * y_stride;
      const int count = group_of(rows - r);
      for (int t = first; t < last;) {
        switch (count) {
          case 4:
            t += dense_step<type, 4>(m, from, x_stride, t, last, to, y_stride);
            break;
          case 2:
            t += dense_step<type, 2>(m, from, x_stride, t, last, to, y_stride);
            break;
          default:
            t += dense_step<type, 1>(m, from, x_stride, t, last, to, y_stride);
        }
      }
      r += count;
    }
  }
}

inline int32_t largest_of(__m256i v) {
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}

inline int32_t sum_of(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

inline __m256i rounded(const float* x, __m256 inverse) {
  __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
  q = _mm256_min_epi32(q, _mm256_set1_epi32(127));
  return _mm256_max_epi32(q, _mm256_set1_epi32(-127));
}

}  // namespace

void quantise(const float* x, size_t stride, int rows, const QuantisedRows& out, int first) {
  const int n = out.n, block = out.block;
  for (int r = 0; r < rows; ++r) {
    const float* from = x + size_t(r) * stride;
    int8_t* q = out.q + size_t(first + r) * size_t(n);
    float* scales = out.scales + size_t(first + r) * size_t(n / block);
    int32_t* sums = out.sums + size_t(first + r) * size_t(n / 16);
    for (int b = 0; b < n / block; ++b) {
      __m256i bits = _mm256_setzero_si256();
      for (int i = 0; i < block; i += 8) {
        const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
        bits = _mm256_max_epi32(bits, _mm256_and_si256(v, _mm256_set1_epi32(0x7fffffff)));
      }
      const int32_t largest_bits = largest_of(bits);
      float largest;
      std::memcpy(&largest, &largest_bits, sizeof largest);
      const float inverse = 127.0f / largest;
      scales[b] = largest / 127.0f;
      const bool poisoned = largest_bits >= 0x7f800000;
      const bool zero = poisoned || !(inverse < __builtin_inff());
      if (zero) scales[b] = poisoned ? __builtin_nanf("") : 0.0f;
      for (int i = 0; i < block; i += 16, from += 16, q += 16, ++sums) {
        __m256i words = _mm256_setzero_si256();
        if (!zero) {
          const __m256 factor = _mm256_set1_ps(inverse);
          words = _mm256_packs_epi32(rounded(from, factor), rounded(from + 8, factor));
          words = _mm256_permute4x64_epi64(words, 0xd8);
        }
        const __m128i bytes =
            _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q), bytes);
        *sums = sum_of(_mm256_madd_epi16(words, _mm256_set1_epi16(1)));
      }
    }
  }
}

void matmul_quantised(const Matrix& w, const QuantisedRows& x, int rows, int tile_first,
                      int tile_last, float* y, size_t y_stride) {
  const MatrixView m = view(w);
  switch (m.type) {
    case Type::kQ4_0:
      return product<Type::kQ4_0>(m, x, rows, tile_first, tile_last, y, y_stride);
    case Type::kQ4_1:
      return product<Type::kQ4_1>(m, x, rows, tile_first, tile_last, y, y_stride);
    case Type::kQ5_0:
      return product<Type::kQ5_0>(m, x, rows, tile_first, tile_last, y, y_stride);
    case Type::kQ5_1:
      return product<Type::kQ5_1>(m, x, rows, tile_first, tile_last, y, y_stride);
    case Type::kQ8_0:
      return product<Type::kQ8_0>(m, x, rows, tile_first, tile_last, y, y_stride);
    case Type::kQ4_K:
      return product<Type::kQ4_K>(m, x, rows, tile_first, tile_last, y, y_stride);
    case Type::kQ5_K:
      return product<Type::kQ5_K>(m, x, rows, tile_first, tile_last, y, y_stride);
    case Type::kQ6_K:
      return product<Type::kQ6_K>(m, x, rows, tile_first, tile_last, y, y_stride);
    default:
      return;
  }
}

void matmul_dense(const Matrix& w, const float* x, size_t x_stride, int rows, int tile_first,
                  int tile_last, float* y, size_t y_stride) {
  const MatrixView m = view(w);
  switch (m.type) {
    case Type::kF32:
      return dense<Type::kF32>(m, x, x_stride, rows, tile_first, tile_last, y, y_stride);
    case Type::kF16:
      return dense<Type::kF16>(m, x, x_stride, rows, tile_first, tile_last, y, y_stride);
    case Type::kBF16:
      return dense<Type::kBF16>(m, x, x_stride, rows, tile_first, tile_last, y, y_stride);
    case Type::kQ4_0:
      return dense<Type::kQ4_0>(m, x, x_stride, rows, tile_first, tile_last, y, y_stride);
    default:
      return;
  }
}

}  // namespace tutti::tensor::avx2
