#include "text/reasoning_splitter.h"

#include <gtest/gtest.h>

#include <vector>

namespace tutti::text {
namespace {

using Parts = std::pair<std::string, std::string>;

Parts split(const std::vector<std::string>& pieces, bool inside) {
  ReasoningSplitter splitter(inside);
  Parts parts;
  for (const std::string& piece : pieces) splitter.push(piece, parts.first, parts.second);
  splitter.finish(parts.first, parts.second);
  return parts;
}

TEST(ReasoningSplitter, TakesThoughtsApartHoweverTheTextIsCut) {
  struct Case {
    bool inside;
    std::string text, reasoning, content;
  };
  const std::vector<Case> cases{
      {false, "Hello.", "", "Hello."},
      {false, " \n", "", " \n"},
      {false, "<think>\nWell, a < b\n\nthen </thin no.\n</think>\n\nYes. </think> <think>",
       "Well, a < b\n\nthen </thin no.", "Yes. </think> <think>"},
      {false, "\n<think>\n\n</think>\n\nYes.", "", "Yes."},
      {false, "<think>never ends </th", "never ends </th", ""},
      {false, "<thin", "", "<thin"},
      {false, "<b> <think>x</think>", "", "<b> <think>x</think>"},
      {true, "Well.\n</think>\n{\"a\": 1}", "Well.", "{\"a\": 1}"},
      {true, "</think>Yes", "", "Yes"},
      {true, " Well ", "Well", ""},
      {true, "ein Gedänke</think>\n  Ü", "ein Gedänke", "Ü"},
  };
  for (const Case& c : cases) {
    const Parts expected{c.reasoning, c.content};
    EXPECT_EQ(split({c.text}, c.inside), expected) << c.text;
    std::vector<std::string> bytes;
    for (size_t i = 0; i < c.text.size(); ++i) {
      EXPECT_EQ(split({c.text.substr(0, i), c.text.substr(i)}, c.inside), expected)
          << c.text << " cut at " << i;
      bytes.push_back(c.text.substr(i, 1));
    }
    EXPECT_EQ(split(bytes, c.inside), expected) << c.text;
  }
}

TEST(ReasoningSplitter, SeesWhatThePromptHasBegun) {
  EXPECT_TRUE(ends_in_thought("<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(ends_in_thought("<think>\n\n</think>\n\n"));
  EXPECT_FALSE(ends_in_thought(" \n"));
  ReasoningSplitter splitter(true);
  EXPECT_TRUE(splitter.inside());
  std::string reasoning, content;
  splitter.push("a</think>", reasoning, content);
  EXPECT_FALSE(splitter.inside());
}

}  // namespace
}  // namespace tutti::text
