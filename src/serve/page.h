// The page at /: a chat, the methods to choose from, and the score. One document, nothing from
// outside.
#pragma once

#include <string>

namespace tutti::serve {

// `nonce` marks its own style and script, so that a policy can refuse any other.
std::string page_html(const std::string& nonce);

}  // namespace tutti::serve
