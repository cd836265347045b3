// The products of bytes with AMX.
#include <utility>

#include "tensor/amx/tiles.h"
#include "tensor/avx512/lanes.h"
#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::amx {

constexpr QuantisedProduct& few_quantised = avx512::matmul_quantised;
constexpr QuantisedProduct& few_w8a8 = avx512::matmul_w8a8;

#include "tensor/amx/products.inc"

}  // namespace tutti::tensor::amx
