// Inside the room: what each instruction-set folder provides, gathered into the tables of
// kernels.h.
#pragma once

#include "tensor/kernels.h"

namespace tutti::tensor {

// The level named by TUTTI_ISA's value; the best available for an empty one. Throws Error(kUsage)
// when the name is unknown or this machine cannot run it.
Isa choose_isa(std::string_view wanted);

// The products live in <level>/products.cpp, the rest in <level>/kernels.cpp; each level's
// make_kernels() is in its kernels.cpp and fills the whole table.
namespace scalar {
void quantise(const float* x, size_t stride, int rows, const QuantisedRows& out, int first);
void matmul_quantised(const Matrix& w, const QuantisedRows& x, int rows, int tile_first,
                      int tile_last, float* y, size_t y_stride);
void matmul_dense(const Matrix& w, const float* x, size_t x_stride, int rows, int tile_first,
                  int tile_last, float* y, size_t y_stride);
Kernels make_kernels();
}  // namespace scalar

namespace avx2 {
void quantise(const float* x, size_t stride, int rows, const QuantisedRows& out, int first);
void matmul_quantised(const Matrix& w, const QuantisedRows& x, int rows, int tile_first,
                      int tile_last, float* y, size_t y_stride);
void matmul_dense(const Matrix& w, const float* x, size_t x_stride, int rows, int tile_first,
                  int tile_last, float* y, size_t y_stride);
Kernels make_kernels();
}  // namespace avx2

namespace avx512 {
void quantise(const float* x, size_t stride, int rows, const QuantisedRows& out, int first);
void matmul_quantised(const Matrix& w, const QuantisedRows& x, int rows, int tile_first,
                      int tile_last, float* y, size_t y_stride);
void matmul_dense(const Matrix& w, const float* x, size_t x_stride, int rows, int tile_first,
                  int tile_last, float* y, size_t y_stride);
Kernels make_kernels();
}  // namespace avx512

}  // namespace tutti::tensor
