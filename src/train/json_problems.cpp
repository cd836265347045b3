#include "train/json_problems.h"

#include <numeric>

namespace tutti::train {
namespace {

constexpr char kKeys[] = "abcdefgh", kWords[] = "pqrstuvwxyz";

struct Value {
  std::string plain, json;
};

Value scalar(Draws& draws) {
  if (draws.below(2)) {
    const std::string digit(1, char('0' + draws.below(10)));
    return {digit, digit};
  }
  std::string word;
  for (int i = 1 + draws.below(3); i > 0; --i) word += kWords[draws.below(int(sizeof kWords) - 1)];
  return {word, '"' + word + '"'};
}

Value any_value(Draws& draws) {
  if (draws.below(3)) return scalar(draws);
  Value list{"[", "["};
  const int items = 1 + draws.below(JsonProblems::kMostItems);
  for (int i = 0; i < items; ++i) {
    const Value item = scalar(draws);
    list.plain += (i ? "," : "") + item.plain;
    list.json += (i ? "," : "") + item.json;
  }
  list.plain += ']';
  list.json += ']';
  return list;
}

}  // namespace

Problem JsonProblems::draw(Draws& draws) const {
  std::vector<char> keys(kKeys, kKeys + sizeof kKeys - 1);
  draws.shuffle(keys);
  size_t next = 0;
  Problem problem{"", "{"};
  const auto entry = [&](const std::string& path) {
    const char key = keys[next++];
    const Value value = any_value(draws);
    problem.prompt += (problem.prompt.empty() ? "" : ";") + path + key + "=" + value.plain;
    problem.answer += std::string("\"") + key + "\":" + value.json;
  };
  for (int left = 1 + draws.below(kMostEntries); left > 0;) {
    if (problem.answer.size() > 1) problem.answer += ',';
    if (left >= 2 && draws.below(3) == 0) {
      const char outer = keys[next++];
      problem.answer += std::string("\"") + outer + "\":{";
      entry(std::string(1, outer) + ".");
      problem.answer += ',';
      entry(std::string(1, outer) + ".");
      problem.answer += '}';
      left -= 2;
    } else {
      entry("");
      --left;
    }
  }
  problem.prompt += '\n';
  problem.answer += '}';
  return problem;
}

}  // namespace tutti::train
