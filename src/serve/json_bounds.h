// What a client's JSON may hold at most, looked for before anything is made of it.
#pragma once

#include <string_view>

namespace tutti::serve {

// Throws ApiError(400): no JSON, nested deeper than `depth` levels (the outermost is the first), or
// an object of more than 4,096 keys, as a key is found by looking through all of them.
void check_json(std::string_view body, int depth);

}  // namespace tutti::serve
