#include "check/numbers.h"

#include <gtest/gtest.h>

#include <regex>

#include "base/draws.h"

namespace tutti::check {
namespace {

TEST(LastNumber, IsTheExpressionsLastMatch) {
  const std::regex expression(R"((-?[$0-9.,]{2,})|(-?[0-9]+))");
  constexpr std::string_view kAlphabet = "-$0123456789.,ab #";
  Draws draws(3);
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (int i = draws.below(14); i > 0; --i)
      text += kAlphabet[size_t(draws.below(int(kAlphabet.size())))];
    std::string last;
    for (auto it = std::sregex_iterator(text.begin(), text.end(), expression);
         it != std::sregex_iterator(); ++it) {
      last = it->str();
    }
    ASSERT_EQ(last_number(text), last) << text;
  }
}

TEST(NormalisedNumber, IsTheHarnessesRules) {
  const auto by_rules = [](std::string text) {
    for (const char* rule : {",", "\\$", "[^]*#### ", "\\.$"})
      text = std::regex_replace(text, std::regex(rule), "");
    return text;
  };
  constexpr std::string_view kAlphabet = "#### $1,2.3 #### ";
  Draws draws(4);
  for (int round = 0; round < 5000; ++round) {
    std::string text = draws.below(2) ? "a#### " : "";
    for (int i = draws.below(10); i > 0; --i)
      text += kAlphabet[size_t(draws.below(int(kAlphabet.size())))];
    if (draws.below(3) == 0) text += "#### 12.";
    ASSERT_EQ(normalised_number(text), by_rules(text)) << text;
  }
}

TEST(SameNumber, JudgesAnswers) {
  EXPECT_TRUE(same_number("so it costs $1,234.", "…\n#### 1234"));
  EXPECT_TRUE(same_number("18", "#### 18"));
  EXPECT_TRUE(same_number("first 3, then -7", "#### -7"));
  EXPECT_TRUE(same_number("Thus \\boxed{72} eggs in 3 boxes", "#### 72"));
  EXPECT_TRUE(same_number("\\boxed{\\text{about } 5} and \\boxed{\\frac{1}{2} \\to 6}", "6"));
  EXPECT_FALSE(same_number("18.0", "#### 18"));  // as the harness has it
  EXPECT_FALSE(same_number("no idea", "#### 18"));
  EXPECT_FALSE(same_number("", "#### 18"));
  EXPECT_EQ(boxed("\\boxed{unfinished"), "");
}

}  // namespace
}  // namespace tutti::check
