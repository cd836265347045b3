#include "decode/speculative/draft_cores.h"

#include <gtest/gtest.h>

#include <optional>

namespace tutti::decode::speculative {
namespace {

TEST(DraftCores, AreTheTargetsUntilSomebodyDrafts) {
  const auto split =
      std::make_shared<engine::CoreSplit>(std::vector<std::vector<int>>{{0, 1}, {2, 3}});
  const auto cores = std::make_shared<DraftCores>(split, 0, 1);
  const auto target = [&] { return split->cores(0).size(); };
  EXPECT_EQ(target(), 4u);
  std::optional<DraftCores::Use> first(cores), second;
  EXPECT_EQ(target(), 2u);
  second.emplace(cores);
  first.reset();
  EXPECT_EQ(target(), 2u);
  second.reset();
  EXPECT_EQ(target(), 4u);
  EXPECT_TRUE(split->cores(1).empty());
}

}  // namespace
}  // namespace tutti::decode::speculative
