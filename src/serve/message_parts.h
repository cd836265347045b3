// The content of a chat's messages, in parts: text, and images inside of the request itself.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tutti::serve {

// Makes of `content`, an array of parts, what chat templates take: one text, or, where there are
// images, an array of {"type": "image"} and {"type": "text", "text": …}. Appends the images' bytes
// (files of PNG or JPEG, not looked into) to `images`, which end up `most` at most. Images come
// from "data:" URLs alone: nothing is fetched and no file is read. Throws ApiError(400 | 501)
// naming `place`.
void read_parts(nlohmann::ordered_json& content, const std::string& place, size_t most,
                std::vector<std::vector<std::byte>>& images);

}  // namespace tutti::serve
