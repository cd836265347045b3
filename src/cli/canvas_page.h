// The page that steps through a canvas trace: one file, no outside resource.
#pragma once

#include <string>

namespace tutti::cli {

// `steps`: the trace's lines as JSON objects apart by commas, without '<'.
std::string canvas_page(const std::string& steps);

}  // namespace tutti::cli
