#include "decode/speculative/tree_file.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "base/files.h"
#include "formats/temporary_folder.h"

namespace tutti::decode::speculative {
namespace {

const AcceptanceTable kTable{{0.4, 0.15, 0.06, 0.03}, {0.2, 0.1, 0.05, 0.03}};

TreeFile example() {
  TreeFile file;
  file.method = "ppd";
  file.acceptance = kTable;
  file.seconds = {{1, 0.01}, {8, 0.015}};
  file.keys = 256;
  file.trees = trees_by_price(kTable, 20);
  return file;
}

TEST(TreeFile, WhatIsWrittenIsRead) {
  const TreeFile file = example();
  ASSERT_GT(file.trees.size(), 3u);
  const std::string text = print_tree_file(file);
  const TreeFile again = parse_tree_file(text, "t.json");
  EXPECT_EQ(print_tree_file(again), text);
  EXPECT_EQ(again.acceptance, kTable);
  EXPECT_EQ(again.seconds, file.seconds);
  EXPECT_EQ(again.keys, 256);
  for (size_t i = 0; i < file.trees.size(); ++i) {
    const SteadyState a = steady_state(file.trees[i]), b = steady_state(again.trees[i]);
    EXPECT_NEAR(a.tokens, b.tokens, 1e-12);
    EXPECT_NEAR(a.rows, b.rows, 1e-12);
  }
}

TEST(TreeFile, TreesByPriceGrowAndStayWithinTheirRows) {
  const auto trees = trees_by_price(kTable, 20);
  double tokens = 1;
  for (const DynamicTree& t : trees) {
    EXPECT_EQ(t.size(), 3u);
    for (const StateTree& tree : t) EXPECT_LE(rows_of(tree), 20);
    const double now = steady_state(t).tokens;
    EXPECT_GE(now, tokens - 1e-9);
    tokens = now;
  }
  EXPECT_GT(tokens, 1.6);
}

std::string refusal(const std::string& text) {
  try {
    parse_tree_file(text, "t.json");
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kBadFile);
    return e.what();
  }
  return "";
}

TEST(TreeFile, WhatIsNoTreeIsRefused) {
  const auto file = [](const std::string& acceptance, const std::string& trees) {
    return R"({"method": "ppd", "seconds": [], "acceptance": )" + acceptance + R"(, "trees": )" +
           trees + "}";
  };
  const std::string table = "[[0.5, 0.2], [0.3]]";
  EXPECT_EQ(
      refusal(file(table, "[[[[[], 2]], [[[], 1], [[0], 2]], [[[], 0], [[0], 1], [[0, 0], 2]]]]")),
      "");
  const struct {
    std::string text, expected;
  } cases[] = {
      {"[]", "no object"},
      {R"({"method": "ppd"})", "\"acceptance\" is missing"},
      {file("[]", "[]"), "acceptance: is no list"},
      {file("[[1.5]]", "[]"), "more than 1 together"},
      {file("[[-0.5]]", "[]"), "no number from 0 to 1"},
      {file(table, "[]"), "trees: is no list"},
      {file(table, "[[[[[], 2]]]]"), "has not a tree for each of 0 to 2 prompts"},
      {file(table, "[[[[[], 3]], [[[], 0]], [[[], 0]]]]"), "3 prompts of 2"},
      {file(table, "[[[[[0], 1]], [[[], 0]], [[[], 0]]]]"), "at most 0 ranks"},
      {file(table, "[[[[[], 1]], [[[], 0], [[2], 0]], [[[], 0]]]]"), "no acceptance"},
      {file(table, "[[[[[], 1]], [[[], 0], [[-1], 0]], [[[], 0]]]]"), "no acceptance"},
      {file(table, "[[[[[], 1]], [[[], 0]], [[[], 0], [[0, 0], 0]]]]"), "are no tree"},
      {file(table, "[[[[[], 1]], [[[], 0], [[0], 0], [[0], 1]], [[[], 0]]]]"), "are no tree"},
      {file(table, "[[[[[], 1], [[], 1]], [[[], 0]], [[[], 0]]]]"), "are no tree"},
  };
  for (const auto& c : cases)
    EXPECT_NE(refusal(c.text).find(c.expected), std::string::npos)
        << c.text << ": " << refusal(c.text);
  // 64 trees of 2,048 nodes.
  std::string wide = "[[[], 0]", shares = "[0.0", trees;
  for (int i = 0; i < 1023; ++i) {
    wide += ", [[" + std::to_string(i) + "], 0]";
    shares += ", 0.0";
  }
  for (int i = 0; i < 64; ++i)
    trees += (i > 0 ? ", " : "") + ("[[[[], 1]], " + wide + "], " + wide + "]]");
  EXPECT_NE(
      refusal(file("[" + shares + "], " + shares + "]]", "[" + trees + "]")).find("65536 nodes"),
      std::string::npos);
}

TEST(TreeFile, OfAnotherMethodIsRefused) {
  const formats::TemporaryFolder folder;
  TreeFile file = example();
  file.method = "medusa";
  write_file_atomically(folder / "tree.json", print_tree_file(file));
  EXPECT_EQ(read_tree_file(folder / "tree.json", "medusa").trees.size(), file.trees.size());
  try {
    read_tree_file(folder / "tree.json", "ppd");
    ADD_FAILURE() << "was read";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(e.what()).find("is of method \"medusa\""), std::string::npos);
  }
}

}  // namespace
}  // namespace tutti::decode::speculative
