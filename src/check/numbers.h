// Numeric answers as GSM8K is scored (Cobbe et al., arXiv 2110.14168; the two filters of
// lm-evaluation-harness).
#pragma once

#include <string>
#include <string_view>

namespace tutti::check {

// The last match of (-?[$0-9.,]{2,})|(-?[0-9]+), as it stands; empty when there is none.
std::string last_number(std::string_view text);

// What follows the last "\boxed{", up to the brace that closes it; empty when there is none.
std::string boxed(std::string_view text);

// Without "$" and ",", what stands before the last "#### ", and one full stop at the end; in lower
// case.
std::string normalised_number(std::string_view text);

// Whether `written` ends in the number that `gold` gives behind "####" (or is). A box, where there
// is one, is what counts.
bool same_number(std::string_view written, std::string_view gold);

}  // namespace tutti::check
