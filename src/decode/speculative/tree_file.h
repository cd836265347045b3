// Dynamic trees on disk: JSON with the acceptance that they were built for, what rows cost on the
// machine that tuned them, and the trees.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "decode/speculative/tree_builder.h"

namespace tutti::decode::speculative {

struct TreeFile {
  std::string method;          // whose acceptance it is: "ppd"
  AcceptanceTable acceptance;  // a row per prompt
  // Of forwards: rows and measured seconds, and the keys that each row saw. May be empty.
  std::vector<std::pair<int, double>> seconds;
  int keys = 0;
  std::vector<DynamicTree> trees;  // by falling price of a row: each writes more tokens a forward

  int prompts() const { return int(acceptance.size()); }
};

// Reach and last are computed anew. Throws Error(kBadFile) naming place and key: trees that are
// none, ranks without acceptance, prompts that the acceptance does not know, more than 1024 rows,
// 64 dynamic trees or 65,536 nodes.
TreeFile parse_tree_file(std::string_view text, const std::string& place);
// The same; Error(kUsage), too: it is of another method than `method`.
TreeFile read_tree_file(const std::filesystem::path& path, std::string_view method);
std::string print_tree_file(const TreeFile& file);

// Trees for many prices of a row, in parts of a forward of one row, from dear to cheap; each
// distinct one once. What is best where costs differ is among them, or near.
std::vector<DynamicTree> trees_by_price(const AcceptanceTable& acceptance, int rows);

}  // namespace tutti::decode::speculative
