#include "eval/passages.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <optional>
#include <utility>

#include "base/philox.h"

namespace tutti::eval {
namespace {

const char* const kNames[] = {"Maria", "Peter",  "Anna",  "David", "Laura", "Simon",
                              "Julia", "Martin", "Emma",  "Oscar", "Clara", "Victor",
                              "Alice", "Henry",  "Sarah", "Thomas"};
struct Attribute {
  const char* name;
  const char* values[8];
};
const Attribute kAttributes[] = {
    {"hometown", {"London", "Paris", "Berlin", "Madrid", "Rome", "Vienna", "Moscow", "Tokyo"}},
    {"favorite color", {"red", "blue", "green", "yellow", "white", "black", "orange", "purple"}},
    {"favorite animal", {"dog", "cat", "horse", "lion", "bear", "tiger", "rabbit", "wolf"}},
    {"profession",
     {"doctor", "teacher", "lawyer", "painter", "farmer", "pilot", "singer", "writer"}},
    {"favorite drink", {"tea", "coffee", "water", "milk", "wine", "beer", "juice", "soda"}},
    {"instrument", {"piano", "guitar", "violin", "flute", "drum", "cello", "trumpet", "harp"}},
};
constexpr int kNameCount = 16, kAttributeCount = 6, kValueCount = 8;

}  // namespace

LookupItem lookup_item(uint32_t number, int passages, int facts_per_passage) {
  DrawKey key;
  key.purpose = Purpose::kTrace;
  key.path = number;
  uint32_t index = 0;
  const auto below = [&](int n) { return int(draw_word(key, index++) % uint32_t(n)); };
  // Every (name, attribute) is said once: the facts are the first of a shuffled deck of all of
  // them.
  std::vector<std::pair<int, int>> deck;
  for (int n = 0; n < kNameCount; ++n) {
    for (int a = 0; a < kAttributeCount; ++a) deck.emplace_back(n, a);
  }
  for (size_t i = deck.size(); i > 1; --i) std::swap(deck[i - 1], deck[size_t(below(int(i)))]);
  const int facts = std::min(passages * facts_per_passage, int(deck.size()));
  const int asked = below(facts);
  LookupItem item;
  item.passages.resize(size_t(passages));
  for (int f = 0; f < facts; ++f) {
    const auto [name, attribute] = deck[size_t(f)];
    const std::string subject =
        std::string("The ") + kAttributes[attribute].name + " of " + kNames[name] + " is";
    const std::string value = std::string(" ") + kAttributes[attribute].values[below(kValueCount)];
    std::string& text = item.passages[size_t(f % passages)];
    text += (text.empty() ? "" : " ") + subject + value + ".";
    if (f == asked) {
      item.question = std::string("Question: What is the ") + kAttributes[attribute].name + " of " +
                      kNames[name] + "?\nAnswer: " + subject;
      item.answer = value;
    }
  }
  return item;
}

namespace {

Task<PassageScore> score_one(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                             const PassageQuestion& question) {
  const decode::Passages& passages = question.passages;
  engine::Context context;
  std::vector<int32_t> rest;
  if (passages.parallel()) {
    context = co_await decode::read_passages(engine, request, question.prompt, passages);
    rest.assign(question.prompt.begin() + decode::prompt_tokens_held(passages),
                question.prompt.end());
  } else {
    context = engine::Context(engine, request);
    rest = decode::sequential_prompt(question.prompt, passages);
  }
  const size_t asked = rest.size() - 1;  // the row that predicts the answer's first token
  rest.insert(rest.end(), question.answer.begin(), question.answer.end() - 1);
  engine::Rows rows = engine::Rows::append(rest, context.next_position(), std::nullopt);
  for (size_t i = 0; i < question.answer.size(); ++i) {
    engine::Want want;
    want.at = {question.answer[i]};
    want.stats = true;
    want.logits = i == 0;
    rows.rows[asked + i].want = std::move(want);
  }
  const engine::Answer answer = co_await engine.forward(context, std::move(rows));
  PassageScore result;
  result.exact = true;
  for (size_t i = 0; i < question.answer.size(); ++i) {
    const engine::RowAnswer& row = answer.rows[asked + i];
    result.log_probability += double(row.at.front()) - double(row.stats.lse);
    result.exact = result.exact && row.stats.best == question.answer[i];
  }
  result.logits = answer.rows[asked].logits;
  co_return result;
}

}  // namespace

std::vector<PassageScore> score(engine::Engine& engine,
                                const std::vector<PassageQuestion>& questions) {
  std::vector<PassageScore> scores(questions.size());
  std::exception_ptr error;
  for (size_t i = 0; i < questions.size(); ++i) {
    const auto request = engine.new_request();
    engine.spawn(
        request,
        [&, i, request]() -> Task<void> {
          scores[i] = co_await score_one(engine, request, questions[i]);
        },
        [&](std::exception_ptr e) {
          if (e && !error) error = e;
        });
  }
  engine.run();
  if (error) std::rethrow_exception(error);
  return scores;
}

double divergence(const std::vector<float>& p, const std::vector<float>& q) {
  const auto log_sum = [](const std::vector<float>& x) {
    const double top = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (const float v : x) sum += std::exp(double(v) - top);
    return top + std::log(sum);
  };
  const double lp = log_sum(p), lq = log_sum(q);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double a = double(p[i]) - lp, b = double(q[i]) - lq;
    if (std::isfinite(a)) sum += std::exp(a) * (a - b);
  }
  return sum;
}

}  // namespace tutti::eval
