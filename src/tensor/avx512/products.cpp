// The products with AVX-512 and VNNI: lanes are the 16 outputs of a tile. Up to 8 rows share one
// unpacking of the weights; the arithmetic of each output is that of the scalar level whatever the
// number of rows. No inline function of a header that other files use is called here (see
// MatrixView).
#include <immintrin.h>

#include <cstring>

#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::avx512 {
namespace {

#include "tensor/row_terms.inc"

// How many of `left` rows share an unpacked weight.
inline int group_of(int left) { return left < 8 ? left : 8; }

inline int32_t word(const void* p) {
  int32_t w;
  std::memcpy(&w, p, sizeof w);
  return w;
}

inline __m512 halves(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline __m512i chunk(const uint8_t* p) { return _mm512_loadu_si512(p); }

// (a & mask) | b
inline __m512i and_or(__m512i a, __m512i mask, __m512i b) {
  return _mm512_ternarylogic_epi32(a, mask, b, 0xea);
}

// The eight groups of a sub-block as unsigned bytes.
template <int bits>
inline void unpack(const uint8_t* sub, __m512i (&w)[8]) {
  if constexpr (bits == 8) {
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) w[g] = chunk(sub + 64 * g);
    return;
  }
  const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i both = chunk(sub + 64 * c);
    w[c] = both;
    w[c + 4] = _mm512_srli_epi16(both, 4);
  }
  if constexpr (bits == 4) {
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) w[g] = _mm512_and_si512(w[g], low);
  } else if constexpr (bits == 5) {
    const __m512i plane = chunk(sub + 256), fifth = _mm512_set1_epi8(16);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
      const __m512i moved = g < 4    ? _mm512_slli_epi16(plane, unsigned(4 - g) & 7u)
                            : g == 4 ? plane
                                     : _mm512_srli_epi16(plane, unsigned(g - 4) & 7u);
      w[g] = and_or(w[g], low, _mm512_and_si512(moved, fifth));
    }
  } else if constexpr (bits == 6) {
    const __m512i upper = _mm512_set1_epi8(48);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
      const __m512i plane = chunk(sub + 256 + 64 * (g / 4));
      const int i = g % 4;
      const __m512i moved = i < 2    ? _mm512_slli_epi16(plane, unsigned(4 - 2 * i) & 7u)
                            : i == 2 ? plane
                                     : _mm512_srli_epi16(plane, 2);
      w[g] = and_or(w[g], low, _mm512_and_si512(moved, upper));
    }
  }
}

// sum + the dots of groups [first, first + n) with the bytes of one row.
template <int n>
inline __m512i dots(__m512i sum, const __m512i* w, const int8_t* a) {
#pragma GCC unroll 8
  for (int g = 0; g < n; ++g)
    sum = _mm512_dpbusd_epi32(sum, w[g], _mm512_set1_epi32(word(a + 4 * g)));
  return sum;
}

#include "tensor/prefetch.inc"

// Blocks of 32: adds the panel's blocks to the chains of `rows` rows. `fetch`: these rows are the
// first to read it, and ask for what comes after.
template <Type type, int rows, bool fetch>
inline void small_blocks(const Panel& p, const Rows& x, __m512 (&sum)[rows]) {
  constexpr PackedShape shape = packed_shape(type);
  for (int b = 0; b < p.blocks; ++b) {
    if constexpr (fetch) prefetch_ahead<type>(p, b);
    const uint8_t *quants = p.quants + packed_sub(shape, b),
                  *records = p.records + packed_record(shape, b);
    __m512i w[8];
    unpack<shape.bits>(quants, w);
    const __m512 d = halves(records);
    const __m512 m = shape.minimum ? halves(records + 32) : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const int8_t* a = x.a + size_t(r) * x.a_stride + 32 * b;
      __m512i dot =
          shape.offset ? _mm512_set1_epi32(x.start[r * x.stride + b]) : _mm512_setzero_si512();
      if constexpr (rows < 4) {  // two short chains instead of a long one
        dot = _mm512_add_epi32(dots<4>(dot, w, a), dots<4>(_mm512_setzero_si512(), w + 4, a + 16));
      } else {
        dot = dots<8>(dot, w, a);
      }
      const __m512 scale =
          _mm512_mul_ps(d, _mm512_set1_ps(x.scales[size_t(r) * x.scale_stride + size_t(b)]));
      sum[r] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot), sum[r]);
      if constexpr (shape.minimum) {
        sum[r] = _mm512_fmadd_ps(m, _mm512_set1_ps(x.minimum[r * x.stride + b]), sum[r]);
      }
    }
  }
}

// 16 outputs x 2 sub-blocks of bytes as 16-bit pairs.
template <bool is_signed>
inline __m512i pair_of_scales(const uint8_t* p) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return is_signed ? _mm512_cvtepi8_epi16(bytes) : _mm512_cvtepu8_epi16(bytes);
}
inline __m512i even_scales(__m512i pair) {
  return _mm512_srai_epi32(_mm512_slli_epi32(pair, 16), 16);
}
inline __m512i odd_scales(__m512i pair) { return _mm512_srai_epi32(pair, 16); }

// Blocks of 256.
template <Type type, int rows, bool fetch>
inline void large_blocks(const Panel& p, const Rows& x, __m512 (&sum)[rows]) {
  constexpr PackedShape shape = packed_shape(type);
  constexpr bool six = shape.bits == 6;
  for (int b = 0; b < p.blocks; ++b) {
    const uint8_t *quants = p.quants + packed_sub(shape, 8 * b),
                  *records = p.records + packed_record(shape, b);
    __m512i total[rows];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      total[r] = _mm512_setzero_si512();
      if constexpr (six) {  // -32 * sum of scale * sum of q
        for (int p = 0; p < 8; ++p) {
          total[r] = _mm512_dpwssd_epi32(total[r], pair_of_scales<true>(records + 32 + 32 * p),
                                         _mm512_set1_epi32(x.pairs[r * x.stride + 8 * b + p]));
        }
        total[r] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(total[r], 5));
      }
    }
    for (int s = 0; s < 8; ++s, quants += shape.sub_bytes) {
      if constexpr (fetch) prefetch_ahead<type>(p, 8 * b + s);
      __m512i w[8];
      unpack<shape.bits>(quants, w);
      const __m512i pair = pair_of_scales<six>(records + (six ? 32 + 32 * s : 64 + 32 * (s / 2)));
      const __m512i scale = six || s % 2 == 0 ? even_scales(pair) : odd_scales(pair);
      const __m512i second = odd_scales(pair);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const int8_t* a = x.a + size_t(r) * x.a_stride + 256 * b + 32 * s;
        const __m512i zero = _mm512_setzero_si512();
        if constexpr (six) {
          const __m512i one = _mm512_mullo_epi32(dots<4>(zero, w, a), scale);
          const __m512i two = _mm512_mullo_epi32(dots<4>(zero, w + 4, a + 16), second);
          total[r] = _mm512_add_epi32(total[r], _mm512_add_epi32(one, two));
        } else if constexpr (rows < 4) {
          const __m512i dot = _mm512_add_epi32(dots<4>(zero, w, a), dots<4>(zero, w + 4, a + 16));
          total[r] = _mm512_add_epi32(total[r], _mm512_mullo_epi32(dot, scale));
        } else {
          total[r] = _mm512_add_epi32(total[r], _mm512_mullo_epi32(dots<8>(zero, w, a), scale));
        }
      }
    }
    const __m512 d = halves(records);
    __m512 dmin = _mm512_setzero_ps();
    __m512i mins[4];
    if constexpr (shape.minimum) {
      dmin = halves(records + 32);
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) mins[p] = pair_of_scales<false>(records + 192 + 32 * p);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const __m512 scale = _mm512_set1_ps(x.scales[size_t(r) * x.scale_stride + size_t(b)]);
      sum[r] = _mm512_fmadd_ps(_mm512_mul_ps(d, scale), _mm512_cvtepi32_ps(total[r]), sum[r]);
      if constexpr (shape.minimum) {
        __m512i minimum = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) {
          minimum = _mm512_dpwssd_epi32(minimum, mins[p],
                                        _mm512_set1_epi32(x.pairs[r * x.stride + 4 * b + p]));
        }
        sum[r] = _mm512_fnmadd_ps(dmin, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(minimum)), sum[r]);
      }
    }
  }
}

// One panel of one tile for `rows` rows. The chain goes on from y unless this is the first panel.
template <Type type, int rows, bool fetch>
inline void panel(const Panel& p, const Rows& x, bool begin, float* y, size_t y_stride,
                  __mmask16 lanes) {
  __m512 sum[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    sum[r] = begin ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, y + size_t(r) * y_stride);
  }
  if constexpr (packed_shape(type).block == 32) {
    small_blocks<type, rows, fetch>(p, x, sum);
  } else {
    large_blocks<type, rows, fetch>(p, x, sum);
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) _mm512_mask_storeu_ps(y + size_t(r) * y_stride, lanes, sum[r]);
}

using PanelFunction = void(const Panel& p, const Rows& x, bool begin, float* y, size_t y_stride,
                           __mmask16 lanes);
// By rows - 1.
template <Type type, bool fetch>
constexpr PanelFunction* kPanels[8] = {
    panel<type, 1, fetch>, panel<type, 2, fetch>, panel<type, 3, fetch>, panel<type, 4, fetch>,
    panel<type, 5, fetch>, panel<type, 6, fetch>, panel<type, 7, fetch>, panel<type, 8, fetch>};

template <Type type>
void product(const MatrixView& m, const QuantisedRows& x, int rows, int tile_first, int tile_last,
             float* y, size_t y_stride) {
  constexpr PackedShape shape = packed_shape(type);
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
        const uint8_t* at = reinterpret_cast<const uint8_t*>(m.data) + size_t(t) * m.tile_bytes +
                            packed_record(shape, k / shape.block);
        const Panel p{at, at, m.tile_bytes - packed_record(shape, length / shape.block),
                      length / shape.block};
        const int outputs = m.out - 16 * t;
        const __mmask16 lanes = outputs >= 16 ? __mmask16(0xffff) : __mmask16((1u << outputs) - 1u);
        for (int r = 0; r < some;) {
          const size_t x_row = size_t(row + r);
          const Rows group{x.q + x_row * size_t(m.in) + k,
                           size_t(m.in),
                           x.scales + x_row * size_t(m.in / shape.block) + k / shape.block,
                           size_t(m.in / shape.block),
                           terms.minimum + r * terms.stride,
                           terms.start + r * terms.stride,
                           terms.pairs + r * terms.stride,
                           terms.stride};
          float* to = y + x_row * y_stride + size_t(t) * 16;
          const int count = group_of(some - r);
          const bool fetch = r == 0 && some >= kFetchRows;
          (fetch ? kPanels<type, true> : kPanels<type, false>)[count - 1](p, group, k == 0, to,
                                                                          y_stride, lanes);
          r += count;
        }
      }
    }
  }
}

// ---- dense

template <Type type>
inline __m512 weights(const uint8_t* p) {
  if constexpr (type == Type::kF32) return _mm512_loadu_ps(p);
  if constexpr (type == Type::kF16) return halves(p);
  const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

// `tiles` tiles and `rows` rows at a time: enough independent chains to hide the latency of an fma.
template <Type type, int rows, int tiles>
void dense_tiles(const MatrixView& m, const float* x, size_t x_stride, int t, float* y,
                 size_t y_stride) {
  constexpr size_t kStep = size_t(packed_shape(type).sub_bytes);
  const uint8_t* tile = reinterpret_cast<const uint8_t*>(m.data) + size_t(t) * m.tile_bytes;
  __m512 sum[rows][tiles];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < tiles; ++j) sum[r][j] = _mm512_setzero_ps();
  }
  for (int k = 0; k < m.in; ++k) {
    __m512 w[tiles];
#pragma GCC unroll 8
    for (int j = 0; j < tiles; ++j)
      w[j] = weights<type>(tile + size_t(j) * m.tile_bytes + size_t(k) * kStep);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const __m512 value = _mm512_set1_ps(x[size_t(r) * x_stride + size_t(k)]);
#pragma GCC unroll 8
      for (int j = 0; j < tiles; ++j) sum[r][j] = _mm512_fmadd_ps(w[j], value, sum[r][j]);
    }
  }
  for (int j = 0; j < tiles; ++j) {
    const int outputs = m.out - 16 * (t + j);
    const __mmask16 lanes = outputs >= 16 ? __mmask16(0xffff) : __mmask16((1u << outputs) - 1u);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      _mm512_mask_storeu_ps(y + size_t(r) * y_stride + size_t(t + j) * 16, lanes, sum[r][j]);
    }
  }
}

// The same for Q4_0: a nibble becomes (value - 8) * d, the fp32 number that its block stands for,
// and goes the way of a dense weight. One unpacking serves all rows.
template <int rows, int tiles>
void nibble_tiles(const MatrixView& m, const float* x, size_t x_stride, int t, float* y,
                  size_t y_stride) {
  constexpr PackedShape shape = packed_shape(Type::kQ4_0);
  const uint8_t* tile = reinterpret_cast<const uint8_t*>(m.data) + size_t(t) * m.tile_bytes;
  __m512 sum[rows][tiles];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < tiles; ++j) sum[r][j] = _mm512_setzero_ps();
  }
  for (int b = 0; b < m.in / 32; ++b) {
    __m512 d[tiles];
#pragma GCC unroll 8
    for (int j = 0; j < tiles; ++j) {
      d[j] = halves(tile + size_t(j) * m.tile_bytes + packed_record(shape, b));
    }
    for (int g = 0; g < 8; ++g) {
      __m512i four[tiles];
#pragma GCC unroll 8
      for (int j = 0; j < tiles; ++j) {
        four[j] = chunk(tile + size_t(j) * m.tile_bytes + packed_sub(shape, b) + 64 * (g % 4));
        if (g >= 4) four[j] = _mm512_srli_epi16(four[j], 4);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        __m512 w[tiles];
#pragma GCC unroll 8
        for (int j = 0; j < tiles; ++j) {
          const __m512i q = _mm512_and_si512(_mm512_srli_epi32(four[j], unsigned(8 * i) & 31u),
                                             _mm512_set1_epi32(15));
          w[j] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(q, _mm512_set1_epi32(8))), d[j]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
          const __m512 value = _mm512_set1_ps(x[size_t(r) * x_stride + size_t(32 * b + 4 * g + i)]);
#pragma GCC unroll 8
          for (int j = 0; j < tiles; ++j) sum[r][j] = _mm512_fmadd_ps(w[j], value, sum[r][j]);
        }
      }
    }
  }
  for (int j = 0; j < tiles; ++j) {
    const int outputs = m.out - 16 * (t + j);
    const __mmask16 lanes = outputs >= 16 ? __mmask16(0xffff) : __mmask16((1u << outputs) - 1u);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      _mm512_mask_storeu_ps(y + size_t(r) * y_stride + size_t(t + j) * 16, lanes, sum[r][j]);
    }
  }
}

template <Type type, int rows, int tiles>
inline void some_tiles(const MatrixView& m, const float* x, size_t x_stride, int t, float* y,
                       size_t y_stride) {
  if constexpr (type == Type::kQ4_0) {
    nibble_tiles<rows, tiles>(m, x, x_stride, t, y, y_stride);
  } else {
    dense_tiles<type, rows, tiles>(m, x, x_stride, t, y, y_stride);
  }
}

template <Type type, int rows>
int dense_step(const MatrixView& m, const float* x, size_t x_stride, int t, int tile_last, float* y,
               size_t y_stride) {
  constexpr int kTiles = rows == 1 ? 4 : 2;
  if (tile_last - t >= kTiles) {
    some_tiles<type, rows, kTiles>(m, x, x_stride, t, y, y_stride);
    return kTiles;
  }
  some_tiles<type, rows, 1>(m, x, x_stride, t, y, y_stride);
  return 1;
}

using DenseStep = int(const MatrixView& m, const float* x, size_t x_stride, int t, int tile_last,
                      float* y, size_t y_stride);
// By rows - 1.
template <Type type>
constexpr DenseStep* kDenseSteps[8] = {
    dense_step<type, 1>, dense_step<type, 2>, dense_step<type, 3>, dense_step<type, 4>,
    dense_step<type, 5>, dense_step<type, 6>, dense_step<type, 7>, dense_step<type, 8>};

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
      for (int t = first; t < last;)
        t += kDenseSteps<type>[count - 1](m, from, x_stride, t, last, to, y_stride);
      r += count;
    }
  }
}

}  // namespace

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

}  // namespace tutti::tensor::avx512
