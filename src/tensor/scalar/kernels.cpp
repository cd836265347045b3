// The kernels other than products, in plain C++. The bodies are shared by all levels (the .inc
// files); this level's meaning of sixteen lanes is lanes.h. No inline function of a shared header
// may be instantiated here (DESIGN 4).
#include "tensor/scalar/lanes.h"

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

constexpr Isa kIsa = Isa::kScalar;

}  // namespace

namespace scalar {
#include "tensor/table.inc"
}  // namespace scalar

}  // namespace tutti::tensor
