// A regular expression as a grammar's expression: the part of ECMAScript's and Python's syntax that
// describes regular languages.
#pragma once

#include <string>
#include <string_view>

#include "text/grammar_expression.h"

namespace tutti::text {

inline constexpr int kMostRepeats = 10'000;  // of {m,n}

// The whole text must match. `.` is all but line ends; \d \w \s are ASCII, as JSON Schema means
// them; ^ and $ may stand at the two ends, where they change nothing. With `search` a match
// anywhere is enough unless they do. `?` behind a repetition changes nothing. Throws Error(kUsage)
// naming the place: not closed, or something that is not regular (look-around, back references,
// \b).
ExpressionPtr regex_expression(std::string_view pattern, bool search = false);

}  // namespace tutti::text
