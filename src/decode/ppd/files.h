// What method ppd reads from files: prompt tokens, and the trees built for them.
#pragma once

#include <memory>
#include <string>

#include "decode/ppd/prompt_tokens.h"
#include "decode/speculative/tree_file.h"

namespace tutti::decode::ppd {

struct Files {
  PromptTokens prompts;
  speculative::TreeFile trees;
};

// The values of options prompt_tokens and tree, the second perhaps empty. Throws Error, also when
// the two do not fit each other or the model.
std::shared_ptr<const Files> read_files(const std::string& folder, const std::string& tree,
                                        const models::Config& config);

}  // namespace tutti::decode::ppd
