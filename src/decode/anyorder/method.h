// Any-order decoding as methods of the table: the answer is `max_tokens` blanks behind the prompt.
#pragma once

#include <vector>

#include "decode/generation.h"
#include "decode/method.h"

namespace tutti::decode {

namespace anyorder {
std::vector<MethodOption> sequential_options();
std::vector<MethodOption> assd_options();
}  // namespace anyorder

// Emits up to the end token; what lies behind it is dropped.
Task<void> any_order_method(Generation& g);
Task<void> assd_method(Generation& g);

}  // namespace tutti::decode
