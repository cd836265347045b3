// The generators: what they draw is right, and what is held out is never trained.
#include "train/problems.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "train/addition.h"
#include "train/countdown.h"
#include "train/json_problems.h"
#include "train/sudoku.h"

namespace tutti::train {
namespace {

constexpr int kMany = 3000;

// Whether every row, column and box has each digit once.
bool is_solved(const std::string& grid) {
  for (int unit = 0; unit < 4; ++unit) {
    std::set<char> row, column, box;
    for (int i = 0; i < 4; ++i) {
      row.insert(grid[size_t(4 * unit + i)]);
      column.insert(grid[size_t(4 * i + unit)]);
      box.insert(grid[size_t(8 * (unit / 2) + 2 * (unit % 2) + 4 * (i / 2) + i % 2)]);
    }
    const std::set<char> all{'1', '2', '3', '4'};
    if (row != all || column != all || box != all) return false;
  }
  return true;
}

// How many grids have the givens, by trying every digit in every cell.
int solutions(const std::string& puzzle, size_t cell = 0) {
  static const auto conflicts = [](const std::string& p, size_t at) {
    for (size_t other = 0; other < 16; ++other) {
      if (other == at || p[other] == '0' || p[other] != p[at]) continue;
      const bool box = other / 8 == at / 8 && other % 4 / 2 == at % 4 / 2;
      if (other / 4 == at / 4 || other % 4 == at % 4 || box) return true;
    }
    return false;
  };
  if (cell == 16) return 1;
  if (puzzle[cell] != '0') return conflicts(puzzle, cell) ? 0 : solutions(puzzle, cell + 1);
  int count = 0;
  for (char digit = '1'; digit <= '4'; ++digit) {
    std::string next = puzzle;
    next[cell] = digit;
    if (!conflicts(next, cell)) count += solutions(next, cell + 1);
  }
  return count;
}

TEST(SudokuProblems, ThereAre288GridsAndATenthIsHeldOut) {
  const Sudoku sudoku;
  std::set<std::string> grids;
  int held_out = 0;
  for (const Sudoku::Grid& grid : sudoku.grids()) {
    const std::string text(grid.begin(), grid.end());
    EXPECT_TRUE(is_solved(text)) << text;
    grids.insert(text);
    held_out += sudoku.tested({"", text});
  }
  EXPECT_EQ(grids.size(), 288u);
  EXPECT_EQ(held_out, 29);
}

TEST(SudokuProblems, PuzzlesHaveOneSolutionWhichIsTheAnswer) {
  const Sudoku sudoku;
  std::map<int, int> givens;
  for (int i = 0; i < 400; ++i) {
    const Problem p = problem_at(sudoku, 5, i % 2 == 1, uint64_t(i));
    ASSERT_EQ(p.prompt.size(), 17u);
    ASSERT_EQ(p.prompt.back(), '\n');
    ASSERT_TRUE(is_solved(p.answer));
    int count = 0;
    for (size_t c = 0; c < 16; ++c) {
      if (p.prompt[c] == '0') continue;
      ASSERT_EQ(p.prompt[c], p.answer[c]);
      ++count;
    }
    ++givens[count];
    ASSERT_EQ(solutions(p.prompt.substr(0, 16)), 1) << p.prompt;
  }
  EXPECT_EQ(givens.begin()->first, 8);
  EXPECT_EQ(givens.rbegin()->first, 12);
}

TEST(AdditionProblems, AnswersAreWrittenColumnByColumn) {
  EXPECT_EQ(addition_scratchpad(358, 67), "8+7+0=15 5+6+1=12 3+0+1=4 425");
  EXPECT_EQ(addition_scratchpad(0, 0), "0+0+0=0 0");
  EXPECT_EQ(addition_scratchpad(999, 1), "9+1+0=10 9+0+1=10 9+0+1=10 1000");
  const Addition addition;
  for (int i = 0; i < kMany; ++i) {
    const Problem p = problem_at(addition, 1, false, uint64_t(i));
    int a = 0, b = 0;
    char plus = 0, equals = 0;
    ASSERT_TRUE(std::istringstream(p.prompt) >> a >> plus >> b >> equals && plus == '+' &&
                equals == '=');
    ASSERT_EQ(p.answer.substr(p.answer.rfind(' ') + 1), std::to_string(a + b));
    // Each column's sum is the sum of what stands before it, and its carry goes into the next.
    std::istringstream columns(p.answer);
    int x = 0, y = 0, in = 0, sum = 0, carry = 0, place = 1, rebuilt = 0;
    char c;
    while (columns >> x >> c && c == '+' && columns >> y >> c >> in >> c >> sum) {
      ASSERT_EQ(x, a / place % 10);
      ASSERT_EQ(y, b / place % 10);
      ASSERT_EQ(in, carry);
      ASSERT_EQ(sum, x + y + in);
      rebuilt += sum % 10 * place;
      carry = sum / 10;
      place *= 10;
    }
    ASSERT_EQ(rebuilt + carry * place, a + b) << p.answer;
  }
}

TEST(CountdownProblems, AnswersReachTheTargetAndOnlySuchSolve) {
  const Countdown countdown;
  for (int i = 0; i < kMany; ++i) {
    const Problem p = problem_at(countdown, 1, i % 2 == 1, uint64_t(i));
    int n[3], target = 0, a = 0, b = 0, c = 0, d = 0, e = 0, f = 0;
    char one = 0, two = 0;
    ASSERT_EQ(std::sscanf(p.prompt.c_str(), "%d,%d,%d>%d=", &n[0], &n[1], &n[2], &target), 4)
        << p.prompt;
    ASSERT_EQ(
        std::sscanf(p.answer.c_str(), "%d%c%d=%d,%d%c%d=%d", &a, &one, &b, &c, &d, &two, &e, &f), 8)
        << p.answer;
    const auto value = [](int x, char o, int y) {
      return o == '+' ? x + y : o == '-' ? x - y : x * y;
    };
    ASSERT_EQ(value(a, one, b), c);
    ASSERT_EQ(value(d, two, e), f);
    ASSERT_EQ(f, target);
    // The second operation takes the first one's result and the number that is left.
    std::multiset<int> numbers(n, n + 3), used{a, b, d == c ? e : d};
    const std::multiset<int> other{a, b, e == c ? d : e};
    ASSERT_TRUE(numbers == used || numbers == other) << p.prompt << p.answer;
    ASSERT_TRUE(countdown.solves(p, p.answer));
  }
  const Problem p{"3,7,25>46=", ""};
  for (const char* right : {"3*7=21,21+25=46", "7*3=21,25+21=46"})
    EXPECT_TRUE(countdown.solves(p, right)) << right;
  for (const char* wrong :
       {"", "3*7=21", "3*7=21,21+25=46,", "3*7=22,22+25=47", "3*7=21,20+25=45", "21+25=46,3*7=21",
        "25+21=46,0*0=0", "3*7=21,21+25=460", "46-0=46,46-0=46"}) {
    EXPECT_FALSE(countdown.solves(p, wrong)) << wrong;
  }
  EXPECT_EQ(countdown_answer({1, 1, 1}, 99), "");
}

TEST(JsonProblems, AnswersAreTheJsonOfThePaths) {
  const JsonProblems source;
  int nested = 0, lists = 0;
  for (int i = 0; i < kMany; ++i) {
    const Problem p = problem_at(source, 1, false, uint64_t(i));
    ASSERT_LE(p.prompt.size() + p.answer.size(), 191u) << p.prompt << p.answer;
    nlohmann::json expected = nlohmann::json::object();
    std::istringstream entries(p.prompt.substr(0, p.prompt.size() - 1));
    ASSERT_EQ(p.prompt.back(), '\n');
    for (std::string entry; std::getline(entries, entry, ';');) {
      const size_t equals = entry.find('=');
      const auto scalar = [](const std::string& text) -> nlohmann::json {
        return std::isdigit(text[0]) ? nlohmann::json(std::stoi(text)) : nlohmann::json(text);
      };
      std::string text = entry.substr(equals + 1);
      nlohmann::json value;
      if (text[0] == '[') {
        ++lists;
        value = nlohmann::json::array();
        std::istringstream items(text.substr(1, text.size() - 2));
        for (std::string item; std::getline(items, item, ',');) value.push_back(scalar(item));
      } else {
        value = scalar(text);
      }
      if (entry[1] == '.') {
        ++nested;
        expected[entry.substr(0, 1)][entry.substr(2, 1)] = value;
      } else {
        expected[entry.substr(0, 1)] = value;
      }
    }
    ASSERT_EQ(nlohmann::json::parse(p.answer), expected) << p.prompt;
    ASSERT_EQ(p.answer.find(' '), std::string::npos);
  }
  EXPECT_GT(nested, 100);
  EXPECT_GT(lists, 100);
}

TEST(Problems, HeldOutOnesAreNeverTrained) {
  for (const std::string& name : problem_names()) {
    const auto source = make_problems(name);
    std::set<std::string> trained, tested;
    for (int i = 0; i < kMany; ++i) {
      const Problem train = problem_at(*source, 3, false, uint64_t(i)),
                    test = problem_at(*source, 3, true, uint64_t(i));
      EXPECT_TRUE(source->trained(train) && !source->tested(train));
      EXPECT_TRUE(source->tested(test) && !source->trained(test));
      EXPECT_FALSE(tenth(train));
      trained.insert(train.prompt + train.answer);
      tested.insert(test.prompt + test.answer);
    }
    for (const std::string& text : tested)
      EXPECT_FALSE(trained.contains(text)) << name << ": " << text;
    EXPECT_GT(trained.size(), size_t(kMany) / 2) << name;
  }
}

TEST(Problems, AProblemIsAFunctionOfItsNumber) {
  const auto source = make_problems("sudoku");
  const Problem before = problem_at(*source, 3, false, 1000);
  problem_at(*source, 3, false, 7);
  EXPECT_EQ(problem_at(*source, 3, false, 1000).prompt, before.prompt);
  EXPECT_NE(problem_at(*source, 4, false, 1000).prompt, before.prompt);
  EXPECT_NE(problem_at(*source, 3, false, 1000 + (uint64_t(1) << 32)).prompt, before.prompt);
}

}  // namespace
}  // namespace tutti::train
