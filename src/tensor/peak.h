// The most multiply-adds that a core can do in a class of arithmetic: loops over registers that
// touch no memory, for the compute roof of benchmarks.
#pragma once

#include <cstdint>

#include "tensor/kernels.h"

namespace tutti::tensor {

enum class Peak : uint8_t {
  kDots,        // products of bytes summed in 32 bits, nothing else
  kExactQ8,     // what exact-q8 asks for a block of 32: its dot, d_w * d_a, and one fma
  kExactQ8Min,  // the same for types with a minimum: a second fma
  kFloat,       // fp32 fma
  kBf16,  // two products of bf16 summed in fp32: fp32 fma where there is no instruction for it
};

// Does `rounds` rounds on the calling thread; returns the multiply-adds of weights with activations
// in them. Of AVX2, bytes are those of 4-bit weights, whose products may be summed in 16 bits.
// Throws Error(kUsage) when this machine cannot run the level.
uint64_t run_peak(Isa isa, Peak peak, int rounds);

}  // namespace tutti::tensor
