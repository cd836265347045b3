// The kernels other than products, in AVX2. The bodies are shared by all levels (the .inc files);
// this level's meaning of sixteen lanes is lanes.h. No inline function of a shared header may be
// instantiated here (DESIGN 4).
#include "tensor/avx2/lanes.h"

#include "tensor/levels.h"

namespace tutti::tensor {
namespace {

// in the order of use
#include "tensor/elementary.inc"

#include "tensor/rows.inc"

#include "tensor/vocabulary.inc"

#include "tensor/attention.inc"

#include "tensor/attention_shared.inc"

#include "tensor/attention_steps.inc"

constexpr Isa kIsa = Isa::kAvx2;

}  // namespace

namespace avx2 {
#include "tensor/table.inc"
}  // namespace avx2

}  // namespace tutti::tensor
