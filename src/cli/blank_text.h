// Texts with blanks, as users write them: [[mask:5]] is five tokens to be filled in, [[=words]] are
// words to be scored.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "decode/anyorder/infill.h"
#include "text/tokenizer.h"

namespace tutti::cli {

struct TextPart {
  enum Kind : uint8_t { kGiven, kBlank, kScored } kind = kGiven;
  std::string text;  // of given and scored parts
  int count = 0;     // of blanks: tokens, at least 1
};

// Throws Error(kUsage) that starts with `place` for a mark that is neither, is not closed, or has
// no sound number.
std::vector<TextPart> parse_parts(std::string_view text, const std::string& place);

// The tokens of the parts, one after the other, and the positions of those that are blank or
// scored, ascending. Throws Error(kUsage) naming a part that encodes to nothing or to an unknown
// token.
decode::anyorder::InfillTask task_of(const std::vector<TextPart>& parts,
                                     const text::Tokenizer& tokenizer);

// {"tokens": [1, null, 3], "order": [1]}: null is a blank. Without "order" it is empty. Throws
// Error(kUsage).
decode::anyorder::InfillTask parse_task(const std::string& json, const std::string& place);

// By its name: lattice, reversed or random (by the seed), of `positions`.
std::vector<int> order_by_name(const std::string& name, std::vector<int> positions, uint64_t seed);

}  // namespace tutti::cli
