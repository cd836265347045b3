// PEARL (Liu et al., arXiv 2408.11850): draft model and target work at the same time. While the
// target verifies what was drafted before (post-verify), or picks one token (pre-verify: the first
// draft is checked before the others are there), the draft model writes on as if all of it stood.
// While drafts stand, nobody waits; one that does not stand costs what was written after it.
#pragma once

#include <vector>

#include "decode/method.h"
#include "engine/task.h"

namespace tutti::decode {

class Generation;

// Drafts by GenerationOptions::draft_model, which needs cores of its own to work at the same time.
Task<void> pearl(Generation& g);
std::vector<MethodOption> pearl_options();

}  // namespace tutti::decode
