#include "decode/speculative/tree_file.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "decode/speculative/tree_policy.h"
#include "formats/json_text.h"
#include "train/strict_object.h"

namespace tutti::decode::speculative {

namespace {

using Json = nlohmann::ordered_json;

constexpr int kMostPrompts = 64, kMostRanks = 1024, kMostRows = 1024;
constexpr size_t kMostTrees = 64, kMostNodes = size_t(1) << 16;  // of a file

[[noreturn]] void bad(const std::string& place, const std::string& what) {
  throw Error(ErrorKind::kBadFile, place + ": " + what + "; make the file again (tutti ppd tune)");
}

AcceptanceTable read_acceptance(const nlohmann::json& rows, const std::string& place) {
  AcceptanceTable table;
  if (!rows.is_array() || rows.empty() || rows.size() > size_t(kMostPrompts))
    bad(place, "is no list of 1 to " + std::to_string(kMostPrompts) + " rows");
  for (const auto& row : rows) {
    if (!row.is_array() || row.empty() || row.size() > size_t(kMostRanks))
      bad(place, "a row is no list of 1 to " + std::to_string(kMostRanks) + " shares");
    table.emplace_back();
    double sum = 0;
    for (const auto& share : row) {
      if (!share.is_number() || !(share.get<double>() >= 0))
        bad(place, "a share is no number from 0 to 1");
      table.back().push_back(share);
      sum += table.back().back();
    }
    if (sum > 1 + 1e-6) bad(place, "the shares of a row are more than 1 together");
  }
  return table;
}

// [[ranks], prompts]
PlannedNode read_node(const nlohmann::json& value, const AcceptanceTable& acceptance, size_t state,
                      const std::string& place) {
  if (!value.is_array() || value.size() != 2 || !value[0].is_array() ||
      !value[1].is_number_integer() || value[0].size() > state)
    bad(place, "a node is not [ranks, prompts], with at most " + std::to_string(state) + " ranks");
  PlannedNode node;
  for (const auto& rank : value[0]) {
    const auto& row = acceptance[node.path.size()];
    if (!rank.is_number_integer() || rank.get<int64_t>() < 0 ||
        rank.get<int64_t>() >= int64_t(row.size()))
      bad(place, "a rank has no acceptance");
    node.path.push_back(rank);
    node.reach *= row[size_t(node.path.back())];
  }
  const int64_t prompts = value[1];
  if (prompts < 0 || prompts > int64_t(acceptance.size()))
    bad(place, "a node has " + std::to_string(prompts) + " prompts of " +
                   std::to_string(acceptance.size()));
  node.prompts = int(prompts);
  return node;
}

StateTree read_tree(const nlohmann::json& nodes, const AcceptanceTable& acceptance, size_t state,
                    const std::string& place) {
  if (!nodes.is_array() || nodes.empty() || nodes.size() > size_t(kMostRows))
    bad(place, "is no list of 1 to " + std::to_string(kMostRows) + " nodes");
  StateTree tree;
  std::set<std::vector<int>> paths;
  for (const auto& value : nodes) {
    PlannedNode node = read_node(value, acceptance, state, place);
    std::vector<int> parent = node.path;
    if (!parent.empty()) parent.pop_back();
    if (node.path.empty() != tree.empty() || (!node.path.empty() && !paths.contains(parent)) ||
        !paths.insert(node.path).second)
      bad(place, "the nodes are no tree: the root first, each behind its parent, none twice");
    tree.push_back(std::move(node));
  }
  if (rows_of(tree) > kMostRows) bad(place, "has more than " + std::to_string(kMostRows) + " rows");
  set_last(tree);
  return tree;
}

DynamicTree read_trees(const nlohmann::json& states, const AcceptanceTable& acceptance,
                       const std::string& place) {
  if (!states.is_array() || states.size() != acceptance.size() + 1)
    bad(place, "has not a tree for each of 0 to " + std::to_string(acceptance.size()) + " prompts");
  DynamicTree trees;
  for (size_t k = 0; k < states.size(); ++k) {
    trees.push_back(read_tree(states[k], acceptance, k, place + ", state " + std::to_string(k)));
  }
  return trees;
}

std::pair<int, double> read_seconds(const nlohmann::json& value, const std::string& place) {
  if (!value.is_array() || value.size() != 2 || !value[0].is_number_integer() ||
      !value[1].is_number() || value[0].get<int64_t>() < 1 ||
      value[0].get<int64_t>() > int64_t(1) << 20 || !(value[1].get<double>() > 0))
    bad(place, "is no list of [rows, seconds]");
  return {value[0].get<int>(), value[1].get<double>()};
}

Json json_of(const DynamicTree& trees) {
  Json states = Json::array();
  for (const StateTree& tree : trees) {
    Json nodes = Json::array();
    for (const PlannedNode& node : tree) nodes.push_back(Json::array({node.path, node.prompts}));
    states.push_back(std::move(nodes));
  }
  return states;
}

}  // namespace

TreeFile parse_tree_file(std::string_view text, const std::string& place) {
  const nlohmann::json value = formats::parse_json(text, place);
  train::StrictObject o(value, place);
  TreeFile file;
  file.method = o.text("method");
  file.keys = int(o.integer("keys", 0, 1 << 24, 0));
  for (const char* key : {"acceptance", "seconds", "trees"}) {
    if (!o.has(key)) o.bad(key, "is missing");
  }
  o.finish();
  file.acceptance = read_acceptance(value["acceptance"], place + ": acceptance");
  if (!value["seconds"].is_array() || value["seconds"].size() > kMostTrees)
    bad(place + ": seconds", "is no list of [rows, seconds]");
  for (const auto& pair : value["seconds"])
    file.seconds.push_back(read_seconds(pair, place + ": seconds"));
  const auto& trees = value["trees"];
  if (!trees.is_array() || trees.empty() || trees.size() > kMostTrees)
    bad(place + ": trees", "is no list of 1 to " + std::to_string(kMostTrees));
  size_t nodes = 0;
  for (size_t i = 0; i < trees.size(); ++i) {
    file.trees.push_back(
        read_trees(trees[i], file.acceptance, place + ": trees, number " + std::to_string(i)));
    for (const StateTree& tree : file.trees.back()) nodes += tree.size();
    if (nodes > kMostNodes)
      bad(place + ": trees", "have more than " + std::to_string(kMostNodes) + " nodes in all");
  }
  return file;
}

TreeFile read_tree_file(const std::filesystem::path& path, std::string_view method) {
  TreeFile file = parse_tree_file(read_file(path, size_t(1) << 24), path.string());
  if (file.method != method)
    throw Error(ErrorKind::kUsage, path.string() + ": is of method \"" + file.method +
                                       "\"; give a file of trees of method " + std::string(method));
  return file;
}

std::string print_tree_file(const TreeFile& file) {
  // A line per row of acceptance and per tree: short enough to read, and to compare.
  const auto lines = [](const auto& items, const auto& json) {
    std::string text = "[";
    for (size_t i = 0; i < items.size(); ++i)
      text += (i == 0 ? "\n  " : ",\n  ") + Json(json(items[i])).dump();
    return text + "]";
  };
  const auto itself = [](const auto& x) { return Json(x); };
  return "{\"method\": " + Json(file.method).dump() +
         ",\n \"acceptance\": " + lines(file.acceptance, itself) +
         ",\n \"keys\": " + std::to_string(file.keys) +
         ",\n \"seconds\": " + Json(file.seconds).dump() +
         ",\n \"trees\": " + lines(file.trees, json_of) + "}\n";
}

std::vector<DynamicTree> trees_by_price(const AcceptanceTable& acceptance, int rows) {
  std::vector<DynamicTree> all;
  double most = 1;  // tokens a forward so far
  constexpr double kFirst = 0.6, kFactor = 0.75, kLast = 0.002;
  for (double price = kFirst; price > kLast; price *= kFactor) {
    DynamicTree trees =
        best_trees(acceptance, [&](int r) { return 1 + price * (r - 1); }, {rows, 10});
    const double tokens = steady_state(trees).tokens;
    if (tokens <= most + 1e-6) continue;
    most = tokens;
    all.push_back(std::move(trees));
  }
  return all;
}

}  // namespace tutti::decode::speculative
