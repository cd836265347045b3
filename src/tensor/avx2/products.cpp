// The products with AVX2, FMA and F16C. No inline function of a header that other files use is
// called here (see MatrixView).
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

#include "tensor/avx2/unpack.inc"

constexpr bool kSigned8 = true;

inline __m256i widened(__m256i narrow) { return _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)); }

// See products.inc. Groups are taken as they are unpacked, so that few registers hold weights.
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

}  // namespace

#include "tensor/avx2/products.inc"

namespace {

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

// The same for Q4_0: a nibble becomes (value - 8) * d, the fp32 number that its block stands for,
// and goes the way of a dense weight. One unpacking serves all rows.
template <int rows, int tiles>
void nibble_tiles(const MatrixView& m, const float* x, size_t x_stride, int t, float* y,
                  size_t y_stride) {
  constexpr int kHalves = 2 * tiles;
  constexpr PackedShape shape = packed_shape(Type::kQ4_0);
  const uint8_t* tile = reinterpret_cast<const uint8_t*>(m.data) + size_t(t) * m.tile_bytes;
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
      d[j] =
          halves_of(tile + size_t(j / 2) * m.tile_bytes + packed_record(shape, b) + 16 * (j % 2));
    }
    for (int g = 0; g < 8; ++g) {
      __m256i four[kHalves];
#pragma GCC unroll 8
      for (int j = 0; j < kHalves; ++j) {
        four[j] = chunk(tile + size_t(j / 2) * m.tile_bytes + packed_sub(shape, b) + 64 * (g % 4) +
                        32 * (j % 2));
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
          const __m256i q =
              i == 3 ? _mm256_srli_epi32(four[j], 24)
                     : _mm256_and_si256(_mm256_srli_epi32(four[j], 8 * i), _mm256_set1_epi32(15));
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
