#include "train/countdown.h"

#include <cstdio>
#include <optional>

namespace tutti::train {
namespace {

constexpr char kOperations[] = {'+', '-', '*'};

int result_of(int a, char operation, int b) {
  return operation == '+' ? a + b : operation == '-' ? a - b : a * b;
}

std::string print(int a, char operation, int b) {
  return std::to_string(a) + operation + std::to_string(b) + "=" +
         std::to_string(result_of(a, operation, b));
}

// A number of up to four digits at text[at], which moves behind it.
std::optional<int> read_number(const std::string& text, size_t& at) {
  const size_t begin = at;
  int value = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9' && at - begin < 4)
    value = 10 * value + (text[at++] - '0');
  if (at == begin) return std::nullopt;
  return value;
}

bool read(const std::string& text, size_t& at, char c) {
  return at < text.size() && text[at] == c && ++at > 0;
}

// Takes `value` out of `left`.
bool use(std::vector<int>& left, int value) {
  for (size_t i = 0; i < left.size(); ++i) {
    if (left[i] != value) continue;
    left.erase(left.begin() + ptrdiff_t(i));
    return true;
  }
  return false;
}

}  // namespace

std::string countdown_answer(const std::array<int, 3>& n, int target) {
  constexpr int kPairs[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 2, 0}, {1, 0, 2}, {2, 0, 1}, {2, 1, 0}};
  for (const auto& [first, second, third] : kPairs) {
    for (const char one : kOperations) {
      const int middle = result_of(n[size_t(first)], one, n[size_t(second)]);
      if (middle <= 0) continue;
      const std::string begin = print(n[size_t(first)], one, n[size_t(second)]) + ",";
      for (const char two : kOperations) {
        if (result_of(middle, two, n[size_t(third)]) == target)
          return begin + print(middle, two, n[size_t(third)]);
        if (result_of(n[size_t(third)], two, middle) == target)
          return begin + print(n[size_t(third)], two, middle);
      }
    }
  }
  return "";
}

Problem Countdown::draw(Draws& draws) const {
  for (;;) {
    std::array<int, 3> n;
    for (int& x : n) x = 1 + draws.below(kMostNumber);
    std::array<int, 3> order = n;
    for (size_t i = 3; i > 1; --i) std::swap(order[i - 1], order[size_t(draws.below(int(i)))]);
    const int middle = result_of(order[0], kOperations[draws.below(3)], order[1]);
    const int target = result_of(middle, kOperations[draws.below(3)], order[2]);
    if (middle <= 0 || target < 1 || target > kMostTarget) continue;
    char prompt[40];
    std::snprintf(prompt, sizeof prompt, "%d,%d,%d>%d=", n[0], n[1], n[2], target);
    return {prompt, countdown_answer(n, target)};
  }
}

bool Countdown::solves(const Problem& problem, const std::string& written) const {
  std::vector<int> left;
  size_t at = 0;
  for (int i = 0; i < 3; ++i) {
    left.push_back(read_number(problem.prompt, at).value_or(0));
    ++at;
  }
  const int target = read_number(problem.prompt, at).value_or(0);
  int result = 0;
  at = 0;
  for (int step = 0; step < 2; ++step) {
    if (step > 0 && !read(written, at, ',')) return false;
    const auto a = read_number(written, at);
    const char operation = at < written.size() ? written[at++] : 0;
    const auto b = read_number(written, at);
    if (!a || !b || (operation != '+' && operation != '-' && operation != '*') ||
        !read(written, at, '='))
      return false;
    const auto c = read_number(written, at);
    if (!c || *c != result_of(*a, operation, *b) || !use(left, *a) || !use(left, *b)) return false;
    left.push_back(result = *c);
  }
  return at == written.size() && result == target;
}

}  // namespace tutti::train
