#include "decode/beam/beam.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "decode/generation.h"
#include "decode/method.h"

namespace tutti::decode {
namespace {

struct Beam {
  engine::Context context;  // holds prompt and tokens but the last
  std::vector<engine::Picked> tokens;
  double log_probability = 0;
};

struct Candidate {
  size_t beam;
  int32_t token;
  double step;             // log-probability of the token
  double log_probability;  // of beam and token
};

struct Hypothesis {
  std::vector<engine::Picked> tokens;
  double score;
};

double normalised(double log_probability, int length, double penalty) {
  return log_probability / std::pow(double(std::max(length, 1)), penalty);
}

// Beams are ranked by the model's own log-probability: what reshapes or draws would silently do
// nothing.
void refuse_sampling(const GenerationOptions& options) {
  const engine::Sampling& s = options.sampling;
  std::string what;
  if (options.n > 1) what = "several samples";
  if (s.temperature != 0) what = "a temperature";
  if (!s.logit_bias.empty() || !s.suppressed.empty() || s.allowed)
    what = "a logit bias or a set of allowed tokens";
  if (options.constraint) what = "a constraint";
  if (s.needs_history()) what = "penalties";
  if (!what.empty()) {
    throw Error(ErrorKind::kUsage, "method beam: cannot be combined with " + what +
                                       "; it gives the one likeliest text that it finds");
  }
}

}  // namespace

Task<void> beam(Generation& g) {
  const int width = int_option(g, "width", 1, 64);
  const double penalty = number_option(g, "length_penalty", -10.0, 10.0);
  const bool exact_stop = int_option(g, "exact_stop", 0, 1) != 0;
  refuse_sampling(g.options());
  const int longest = g.room();
  const auto want = [&] {
    engine::Want w;
    w.top_k = width + g.end_count();  // enough to keep `width` beams open whichever tokens end
    w.stats = true;
    return w;
  };

  std::vector<Beam> beams;
  beams.emplace_back();
  beams.front().context = g.begin();
  engine::Answer answer =
      co_await g.forward(beams.front().context, g.rest_of_prompt(beams.front().context, want()));
  std::vector<engine::RowAnswer> rows{answer.rows.back()};
  std::vector<Hypothesis> finished;  // best first, `width` at most
  const auto better = [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; };
  // The best score that a beam of `log_probability` and `length` may come to. A longer text can
  // only lose log-probability, but dividing by its length may lift it.
  const auto best_hope = [&](double log_probability, int length) {
    if (!exact_stop) return normalised(log_probability, length, penalty);
    return normalised(log_probability, penalty > 0 ? longest : length + 1, penalty);
  };

  for (int length = 1; length <= longest; ++length) {
    std::vector<Candidate> candidates;
    for (size_t b = 0; b < beams.size(); ++b) {
      for (const auto& [token, logit] : rows[b].top) {
        const double step = double(logit) - double(rows[b].stats.lse);
        candidates.push_back({b, token, step, beams[b].log_probability + step});
      }
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Candidate& a, const Candidate& b) {
                       return a.log_probability > b.log_probability;
                     });
    std::vector<Candidate> kept;
    std::vector<int> children(beams.size(), 0);
    for (const Candidate& c : candidates) {
      if (int(kept.size()) == width) break;
      if (g.is_end(c.token)) {
        finished.push_back({beams[c.beam].tokens, normalised(c.log_probability, length, penalty)});
      } else {
        ++children[c.beam];
        kept.push_back(c);
      }
    }
    std::vector<Beam> next;
    for (const Candidate& c : kept) {
      Beam grown;
      // The last child goes on in its parent's pages; only the others start pages of their own.
      grown.context =
          --children[c.beam] > 0 ? beams[c.beam].context.fork() : std::move(beams[c.beam].context);
      grown.tokens = beams[c.beam].tokens;
      grown.tokens.emplace_back();
      grown.tokens.back().token = c.token;
      grown.tokens.back().log_probability = grown.tokens.back().raw_log_probability = float(c.step);
      grown.log_probability = c.log_probability;
      next.push_back(std::move(grown));
    }
    std::stable_sort(finished.begin(), finished.end(), better);
    if (finished.size() > size_t(width)) finished.resize(size_t(width));
    beams = std::move(next);
    if (beams.empty() || length == longest) break;
    const double hope = best_hope(beams.front().log_probability, length);
    if (exact_stop ? !finished.empty() && hope <= finished.front().score
                   : int(finished.size()) == width && hope <= finished.back().score) {
      beams.clear();
      break;
    }
    std::vector<engine::Part> parts;
    for (Beam& b : beams) {
      engine::Rows one;
      one.rows.emplace_back(b.tokens.back().token, b.context.next_position());
      one.rows.back().want = want();
      parts.emplace_back(b.context, std::move(one));
    }
    std::vector<engine::Answer> answers = co_await g.forward(std::move(parts));
    rows.clear();
    for (auto& a : answers) rows.push_back(std::move(a.rows.front()));
  }
  // Beams that are open at the end ran out of room.
  for (const Beam& b : beams) {
    finished.push_back({b.tokens, normalised(b.log_probability, int(b.tokens.size()), penalty)});
  }
  std::stable_sort(finished.begin(), finished.end(), better);
  g.emit_all(finished.front().tokens, finished.front().score);
}

}  // namespace tutti::decode
