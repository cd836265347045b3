// Inside the room: what each instruction-set folder provides, gathered into the tables of
// kernels.h.
#pragma once

#include "tensor/attend_steps.h"
#include "tensor/kernels.h"

namespace tutti::tensor {

// The level named by TUTTI_ISA's value; the best available for an empty one. Throws Error(kUsage)
// when the name is unknown or this machine cannot run it.
Isa choose_isa(std::string_view wanted);

// The signatures of kernels.h's products.
using Quantise = void(const float* x, size_t stride, int rows, const QuantisedRows& out, int first);
using QuantisedProduct = void(const Matrix& w, const QuantisedRows& x, int rows, int tile_first,
                              int tile_last, float* y, size_t y_stride);
using DenseProduct = void(const Matrix& w, const float* x, size_t x_stride, int rows,
                          int tile_first, int tile_last, float* y, size_t y_stride);
using Bf16Product = void(const Matrix& w, const uint16_t* x, size_t x_stride, int rows,
                         int tile_first, int tile_last, float* y, size_t y_stride);

// The products live in <level>/products.cpp, w8a8.cpp and bf16.cpp, the rest in
// <level>/kernels.cpp; each level's make_kernels() is in its kernels.cpp and fills the whole table.
namespace scalar {
Quantise quantise;
QuantisedProduct matmul_quantised, matmul_w8a8;
DenseProduct matmul_dense;
Bf16Product matmul_bf16;
Kernels make_kernels();
AttendSteps make_attend_steps();
}  // namespace scalar

namespace avx2 {
Quantise quantise;
QuantisedProduct matmul_quantised, matmul_w8a8;
DenseProduct matmul_dense;
Bf16Product matmul_bf16;
Kernels make_kernels();
AttendSteps make_attend_steps();
}  // namespace avx2

// AVX2 but for the products of bytes.
namespace avxvnni {
QuantisedProduct matmul_quantised, matmul_w8a8;
Kernels make_kernels();
}  // namespace avxvnni

namespace avx512 {
Quantise quantise;
QuantisedProduct matmul_quantised, matmul_w8a8;
DenseProduct matmul_dense;
Bf16Product matmul_bf16;  // for processors without VDPBF16PS
Kernels make_kernels();
AttendSteps make_attend_steps();
}  // namespace avx512

// AVX-512 processors that have VDPBF16PS.
namespace avx512bf16 {
Bf16Product matmul_bf16;
}

// AVX-512 but for the products of bytes with many rows.
namespace amx {
QuantisedProduct matmul_quantised, matmul_w8a8;
// `base` is the table of the AVX-512 level.
Kernels make_kernels(const Kernels& base);
}  // namespace amx

}  // namespace tutti::tensor
