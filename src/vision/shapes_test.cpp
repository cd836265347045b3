#include "vision/shapes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "vision/answer_padding.h"

namespace tutti::vision {
namespace {

TEST(Shapes, AreAFunctionOfSeedSplitAndNumber) {
  for (uint64_t i = 0; i < 50; ++i) {
    const ShapeProblem a = shape_problem(3, ShapeSplit::kTrain, i),
                       b = shape_problem(3, ShapeSplit::kTrain, i);
    EXPECT_EQ(a.image.rgb, b.image.rgb);
    EXPECT_EQ(a.question + a.answer, b.question + b.answer);
  }
  EXPECT_NE(shape_problem(3, ShapeSplit::kTrain, 1).image.rgb,
            shape_problem(3, ShapeSplit::kTest, 1).image.rgb);
}

// Which of the four colours a picture shows, by the pixels alone.
std::set<std::string> colours_seen(const Image& image) {
  std::set<std::string> seen;
  for (size_t i = 0; i < image.rgb.size(); i += 3) {
    const int r = image.rgb[i], g = image.rgb[i + 1], b = image.rgb[i + 2];
    if (r == g && g == b) continue;
    seen.insert(r > 200 ? (g > 150 ? "yellow" : "red") : g > 150 ? "green" : "blue");
  }
  return seen;
}

TEST(Shapes, AnswersAreWhatIsPainted) {
  std::map<Question, int> kinds;
  std::map<std::string, int> compared;
  for (uint64_t i = 0; i < 2000; ++i) {
    const ShapeProblem p = shape_problem(1, ShapeSplit::kTrain, i);
    ++kinds[p.kind];
    const std::set<std::string> seen = colours_seen(p.image);
    EXPECT_EQ(p.image.width % 28, 0);
    EXPECT_TRUE(p.image.width >= 56 && p.image.width <= 112);
    if (p.kind == Question::kColour) {
      EXPECT_TRUE(seen.contains(p.answer));
    }
    if (p.kind == Question::kCount && p.question.find(' ') != std::string::npos) {
      const std::string what = p.question.substr(6);
      const bool colour = what == "red" || what == "green" || what == "blue" || what == "yellow";
      if (colour) {
        EXPECT_EQ(p.answer != "0", seen.contains(what)) << p.question << p.answer;
      }
    }
    if (p.kind == Question::kCompare) ++compared[p.answer];
    if (p.kind == Question::kCaption) {
      std::set<std::string> said;
      for (const char* colour : {"red", "green", "blue", "yellow"}) {
        if (p.answer.find(colour) != std::string::npos) said.insert(colour);
      }
      EXPECT_EQ(said, seen) << p.answer;
      size_t place = 0;  // each once, row by row
      for (const char* next : {"top left", "top right", "bottom left", "bottom right"}) {
        const size_t at = p.answer.find(next);
        if (at == std::string::npos) continue;
        EXPECT_GE(at, place) << p.answer;
        EXPECT_EQ(p.answer.find(next, at + 1), std::string::npos) << p.answer;
        place = at;
      }
    }
    if (p.kind == Question::kDescribe) {
      const auto j = nlohmann::json::parse(p.answer);
      EXPECT_EQ(seen, std::set<std::string>{j["colour"].get<std::string>()});
      // The painted pixels' mean lies in the named quarter.
      double x = 0, y = 0, n = 0;
      for (int v = 0; v < p.image.height; ++v) {
        for (int u = 0; u < p.image.width; ++u) {
          const uint8_t* q = p.image.rgb.data() + (v * p.image.width + u) * 3;
          if (q[0] == q[1] && q[1] == q[2]) continue;
          x += u, y += v, ++n;
        }
      }
      const std::string place = std::string(y / n < p.image.height / 2.0 ? "top" : "bottom") +
                                (x / n < p.image.width / 2.0 ? " left" : " right");
      EXPECT_EQ(place, j["place"].get<std::string>());
    }
  }
  EXPECT_EQ(kinds.size(), size_t(kQuestions));
  // A blind model gains nothing from knowing which answer is more frequent.
  EXPECT_NEAR(double(compared["yes"]) / (compared["yes"] + compared["no"]), 0.5, 0.08);
}

TEST(Shapes, DialoguesAskDifferentThingsOfOnePicture) {
  int asked = 0;
  for (uint64_t i = 0; i < 500; ++i) {
    const auto dialogue = shape_dialogue(1, ShapeSplit::kTrain, i, 4);
    const ShapeProblem first = shape_problem(1, ShapeSplit::kTrain, i);
    EXPECT_EQ(dialogue[0].question + dialogue[0].answer, first.question + first.answer);
    std::set<std::string> questions;
    // Answers agree with each other: the caption, where there is one, says what the others say.
    std::string caption;
    for (const ShapeProblem& p : dialogue) {
      EXPECT_EQ(p.image.rgb, first.image.rgb);
      EXPECT_TRUE(questions.insert(p.question).second) << p.question;
      if (p.kind == Question::kCaption) caption = p.answer;
    }
    asked += int(dialogue.size());
    if (caption.empty()) continue;
    for (const ShapeProblem& p : dialogue) {
      if (p.kind == Question::kPlace) {
        EXPECT_NE(caption.find(p.question.substr(6) + " " + p.answer), std::string::npos);
      }
      if (p.kind == Question::kColour) {
        EXPECT_NE(caption.find(p.answer + " " + p.question.substr(7)), std::string::npos);
      }
    }
  }
  EXPECT_GT(asked, 1900);
}

TEST(Shapes, HeldOutCombinationsAreNeverTrained) {
  const std::vector<std::string> held = held_out_combinations();
  ASSERT_EQ(held.size(), 4u);
  int asked = 0;
  for (uint64_t i = 0; i < 3000; ++i) {
    for (const ShapeSplit split :
         {ShapeSplit::kTrain, ShapeSplit::kTest, ShapeSplit::kCombinations}) {
      const ShapeProblem p = shape_problem(1, split, i);
      std::string said;
      if (p.kind == Question::kPlace) said = p.question.substr(6);
      if (p.kind == Question::kColour) said = p.answer + " " + p.question.substr(7);
      if (p.kind == Question::kDescribe) {
        const auto j = nlohmann::json::parse(p.answer);
        said = j["colour"].get<std::string>() + " " + j["shape"].get<std::string>();
      }
      if (said.empty()) continue;
      ++asked;
      const bool is_held = std::ranges::find(held, said) != held.end();
      EXPECT_EQ(is_held, split == ShapeSplit::kCombinations) << said;
    }
  }
  EXPECT_GT(asked, 3000);
}

TEST(AnswerPadding, ReachesExactlyTheLengthsOfTheRule) {
  Draws draws(2);
  const std::map<int, std::pair<int, int>> rule{{1, {2, 2}},    {2, {3, 4}},    {3, {4, 4}},
                                                {4, {5, 8}},    {7, {8, 8}},    {8, {9, 16}},
                                                {15, {16, 16}}, {16, {17, 32}}, {31, {32, 32}},
                                                {32, {33, 48}}, {47, {48, 48}}, {100, {101, 112}}};
  for (const auto& [length, range] : rule) {
    std::set<int> seen;
    for (int i = 0; i < 2000; ++i) seen.insert(padded_length(length, draws));
    EXPECT_EQ(*seen.begin(), range.first) << length;
    EXPECT_EQ(*seen.rbegin(), range.second) << length;
    EXPECT_EQ(int(seen.size()), range.second - range.first + 1) << length;
  }
}

}  // namespace
}  // namespace tutti::vision
