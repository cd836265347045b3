// A line of the table of methods, for programs and pages.
#pragma once

#include <nlohmann/json.hpp>

#include "decode/method.h"

namespace tutti::decode {

// Name, source, needs, guarantee, options with their defaults.
nlohmann::ordered_json json_of(const Method& method);

}  // namespace tutti::decode
