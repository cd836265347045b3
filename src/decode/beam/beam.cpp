#include "decode/beam/beam.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "decode/generation.h"
#include "decode/method.h"

namespace tutti::decode {
namespace {

struct Beam {
  engine::Context context;  // holds prompt and tokens but the last
  std::vector<int32_t> tokens;
  double log_probability = 0;
};

struct Candidate {
  size_t beam;
  int32_t token;
  double log_probability;
};

struct Hypothesis {
  std::vector<int32_t> tokens;
  double score;
};

double normalised(double log_probability, size_t length, double penalty) {
  return log_probability / std::pow(double(std::max<size_t>(length, 1)), penalty);
}

}  // namespace

Task<void> beam(Generation& g) {
  const int width = int_option(g, "width", 4, 1, 64);
  const double penalty = number_option(g, "length_penalty", 1.0, -10.0, 10.0);
  const auto& prompt = g.prompt();
  const auto want = [&] {
    engine::Want w;
    w.top_k = 2 * width;  // enough to keep `width` beams alive even if every one of them could end
    w.stats = true;
    return w;
  };

  std::vector<Beam> beams;
  beams.emplace_back();
  beams.front().context = g.begin();
  const int done = beams.front().context.size();
  engine::Answer answer = co_await g.forward(
      beams.front().context, engine::Rows::append(std::span(prompt).subspan(size_t(done)), done, want()));
  std::vector<engine::RowAnswer> rows{answer.rows.back()};
  std::vector<Hypothesis> finished;
  const auto worse = [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; };

  for (int step = 0; step < g.room(); ++step) {
    std::vector<Candidate> candidates;
    for (size_t b = 0; b < beams.size(); ++b) {
      for (const auto& [token, logit] : rows[b].top) {
        candidates.push_back({b, token, beams[b].log_probability + (double(logit) - double(rows[b].stats.lse))});
      }
    }
    std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
      return a.log_probability > b.log_probability;
    });
    std::vector<Beam> next;
    for (const Candidate& c : candidates) {
      if (int(next.size()) == width) break;
      if (g.is_end(c.token)) {
        finished.push_back({beams[c.beam].tokens, normalised(c.log_probability, beams[c.beam].tokens.size() + 1, penalty)});
        continue;
      }
      Beam grown;
      grown.context = beams[c.beam].context.fork();
      grown.tokens = beams[c.beam].tokens;
      grown.tokens.push_back(c.token);
      grown.log_probability = c.log_probability;
      next.push_back(std::move(grown));
    }
    std::stable_sort(finished.begin(), finished.end(), worse);
    if (finished.size() > size_t(width)) finished.resize(size_t(width));
    beams = std::move(next);
    if (beams.empty()) break;
    // A longer text can only lose log-probability: stop when the best open beam cannot beat the worst kept one.
    if (int(finished.size()) == width) {
      const double best_open = normalised(beams.front().log_probability, beams.front().tokens.size(), penalty);
      if (best_open <= finished.back().score) break;
    }
    if (step + 1 == g.room()) break;
    std::vector<engine::Part> parts;
    for (Beam& b : beams) {
      engine::Rows one;
      one.rows.emplace_back(b.tokens.back(), b.context.next_position());
      one.rows.back().want = want();
      parts.emplace_back(b.context, std::move(one));
    }
    std::vector<engine::Answer> answers = co_await g.forward(std::move(parts));
    rows.clear();
    for (auto& a : answers) rows.push_back(std::move(a.rows.front()));
  }
  for (const Beam& b : beams) {
    finished.push_back({b.tokens, normalised(b.log_probability, b.tokens.size(), penalty)});
  }
  std::stable_sort(finished.begin(), finished.end(), worse);
  g.emit_all(finished.front().tokens, finished.front().score);
}

}  // namespace tutti::decode
