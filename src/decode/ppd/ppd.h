// Parallel prompt decoding (Chen et al., arXiv 2405.18628; sheet 40): behind every candidate of a
// tree stand trained prompt tokens, whose rows say what comes further on; those behind the node
// that stands give the next tree. They are never kept. The text is that of plain decoding.
#pragma once

#include <vector>

#include "decode/method.h"
#include "engine/task.h"

namespace tutti::decode {

class Generation;

Task<void> ppd_method(Generation& g);
std::vector<MethodOption> ppd_options();

}  // namespace tutti::decode
