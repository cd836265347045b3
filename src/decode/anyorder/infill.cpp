#include "decode/anyorder/infill.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/draws.h"
#include "base/error.h"
#include "decode/anyorder/ngram.h"
#include "decode/anyorder/streams.h"
#include "engine/rejection.h"

namespace tutti::decode::anyorder {
namespace {

using engine::Distribution;
using engine::RowAnswer;
using engine::Sampling;
using engine::Want;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorKind::kUsage, "infill: " + what);
}

void check_task(const models::Config& c, const InfillTask& task, bool scored) {
  if (c.attention != models::AttentionKind::kPermutation) {
    throw Error(ErrorKind::kUnsupported,
                "infill: fills blanks in any order with a model of two streams, but this one (" +
                    c.architecture + ") has none; use an XLNet");
  }
  const int n = int(task.tokens.size());
  if (n > c.context_length) {
    throw Error(ErrorKind::kLimit, "infill: a text of " + std::to_string(n) +
                                       " tokens does not fit the context of " +
                                       std::to_string(c.context_length) + "; shorten it");
  }
  std::vector<bool> named(task.tokens.size());
  for (const int p : task.order) {
    if (p < 0 || p >= n)
      refuse("the order names position " + std::to_string(p) + " of " + std::to_string(n));
    if (named[size_t(p)]) refuse("the order names position " + std::to_string(p) + " twice");
    named[size_t(p)] = true;
  }
  for (int p = 0; p < n; ++p) {
    const int32_t token = task.tokens[size_t(p)];
    const bool blank = token == kBlank;
    if (blank && scored)
      refuse("position " + std::to_string(p) + " is blank; a score needs every token");
    if (!blank && (token < 0 || token >= c.vocab)) {
      refuse("token " + std::to_string(token) + " at position " + std::to_string(p) +
             " is not in the vocabulary of " + std::to_string(c.vocab));
    }
    if (!blank && token == c.mask_token) {
      refuse("position " + std::to_string(p) +
             " holds the mask token, which no text has; leave the position blank");
    }
    if (blank && !named[size_t(p)])
      refuse("the order leaves out the blank at position " + std::to_string(p));
    if (!blank && !scored && named[size_t(p)]) {
      refuse("the order names position " + std::to_string(p) + ", which is given");
    }
  }
}

// log p(token) without the mask token, whose share goes to the others.
double log_probability(double logit, double lse, double mask_logit) {
  return logit - (lse + std::log1p(-std::exp(std::min(mask_logit - lse, -1e-9))));
}

// One text from its first blank to its last.
class Filling {
 public:
  Filling(engine::Engine& engine, std::shared_ptr<engine::Request> request, const InfillTask& task,
          const InfillOptions& options)
      : options_(options),
        config_(engine.model().config()),
        target_(options.sampling),
        streams_(engine, std::move(request), task, options.cached) {
    if (config_.mask_token >= 0) target_.suppressed.push_back(config_.mask_token);
    target_.logprobs = -1;
    draft_ = target_;
    if (options.draft_temperature >= 0) draft_.temperature = options.draft_temperature;
  }

  Task<Infilled> run() {
    while (streams_.decided() < streams_.blanks()) {
      switch (options_.fill) {
        case Fill::kSequential:
          co_await plain(1);
          break;
        case Fill::kParallel:
          co_await plain(width());
          break;
        case Fill::kAssd:
          co_await round();
          break;
      }
    }
    out_.tokens = streams_.tokens();
    co_return std::move(out_);
  }

 private:
  // A token and, of rejection, the law that it was drawn from.
  struct Drawn {
    int32_t token = -1;
    Distribution law;
    double log_probability = 0;
  };

  bool rejects() const {
    return options_.fill == Fill::kAssd && options_.accept == Accept::kReject;
  }
  int left() const { return streams_.blanks() - streams_.decided(); }
  int width() const { return std::min(options_.width, left()); }

  DrawKey key(int rank, Purpose purpose) const {
    DrawKey k;
    k.seed = options_.seed;
    k.request = options_.request_key;
    k.path = options_.path;
    k.position = uint32_t(streams_.position(rank));
    k.purpose = purpose;
    return k;
  }
  double uniform(int rank, Purpose purpose) const {
    const DrawKey k = key(rank, purpose);
    return uniform53(draw_word(k, 0), draw_word(k, 1));
  }

  Want want(int rank, const Sampling& sampling) const {
    Want w;
    w.logits = true;
    if (!rejects()) {
      w.pick = true;
      w.sampling = sampling;
      w.key = key(rank, Purpose::kTargetSample);  // drafts share the noise: what they get right,
                                                  // they get exactly right
    }
    return w;
  }
  // The draft's sampling of the i-th token of a round: the first one has the target's law.
  const Sampling& draft_sampling(int i) const { return i == 0 ? target_ : draft_; }

  // What a query row says of its rank; `purpose` is of a draw, when there is one.
  Drawn drawn(RowAnswer& answer, int rank, const Sampling& sampling, Purpose purpose) {
    Drawn d;
    if (rejects()) {
      std::vector<float> logits = answer.logits;
      d.law = sampler_.distribution(logits, sampling, engine::History());
      d.token = engine::draw_at(d.law, uniform(rank, purpose));
    } else {
      d.token = answer.picked.token;
    }
    d.log_probability = log_probability_of(answer.logits, d.token);
    return d;
  }
  double log_probability_of(const std::vector<float>& logits, int32_t token) const {
    const double lse =
        double(tensor::kernels().vocab_stats(logits.data(), int(logits.size()), 1.0f).lse);
    const double mask =
        config_.mask_token >= 0 ? double(logits[size_t(config_.mask_token)]) : -HUGE_VAL;
    return log_probability(double(logits[size_t(token)]), lse, mask);
  }

  void decide(const std::vector<Filled>& tokens, int proposed, int accepted) {
    std::vector<int32_t> ids;
    for (const Filled& f : tokens) {
      ids.push_back(f.token);
      out_.filled.push_back(f);
      out_.log_probability += f.log_probability;
    }
    const int rank = streams_.decided();
    streams_.decide(ids);
    if (!options_.on_step) return;
    options_.on_step({out_.forwards, rank, int(ids.size()), proposed, accepted, streams_.tokens()});
  }

  // `count` tokens of one forward, as they come.
  Task<void> plain(int count) {
    std::vector<Want> wants;
    const int first = streams_.decided();
    for (int i = 0; i < count; ++i) wants.push_back(want(first + i, target_));
    std::vector<RowAnswer> answers = co_await ask({}, std::move(wants));
    std::vector<Filled> tokens;
    for (int i = 0; i < count; ++i) {
      const Drawn d = drawn(answers[size_t(i)], first + i, target_, Purpose::kTargetSample);
      tokens.push_back({streams_.position(first + i), d.token, d.log_probability, false});
    }
    decide(tokens, 0, 0);
  }

  Task<std::vector<RowAnswer>> ask(std::span<const int32_t> proposed, std::vector<Want> wants) {
    ++out_.forwards;
    return streams_.ask(proposed, std::move(wants));
  }

  // Drafts of the model: each token as if it came next.
  Task<std::vector<Drawn>> model_draft(int count) {
    std::vector<Want> wants;
    const int first = streams_.decided();
    for (int i = 0; i < count; ++i) wants.push_back(want(first + i, draft_sampling(i)));
    std::vector<RowAnswer> answers = co_await ask({}, std::move(wants));
    std::vector<Drawn> out;
    for (int i = 0; i < count; ++i) {
      out.push_back(drawn(answers[size_t(i)], first + i, draft_sampling(i), Purpose::kDraftSample));
    }
    co_return out;
  }

  // Drafts of the counts, one after the other; fewer, when nothing is known.
  std::vector<Drawn> ngram_draft(int count) const {
    const NgramDraft counts(streams_.tokens());
    std::vector<int32_t> text = streams_.tokens();
    std::vector<Drawn> out;
    for (int i = 0; i < count; ++i) {
      const int rank = streams_.decided() + i, p = streams_.position(rank);
      Drawn d;
      d.law = counts.after(p > 0 ? text[size_t(p - 1)] : kBlank);
      if (d.law.ids.empty()) break;
      d.token = engine::draw_at(d.law, uniform(rank, Purpose::kDraftSample));
      text[size_t(p)] = d.token;
      out.push_back(std::move(d));
    }
    return out;
  }

  // What stands of a draft, and the token in place of the first that does not, or behind the last
  // that was asked for.
  std::vector<Filled> verify(const std::vector<Drawn>& draft, std::vector<RowAnswer>& answers,
                             int& accepted) {
    const int first = streams_.decided();
    std::vector<Filled> tokens;
    for (size_t i = 0; i < answers.size(); ++i) {
      const int rank = first + int(i), position = streams_.position(rank);
      Drawn target = drawn(answers[i], rank, target_, Purpose::kResidualSample);
      if (i < draft.size() && stands(draft[i], target, rank)) {
        tokens.push_back({position, draft[i].token,
                          log_probability_of(answers[i].logits, draft[i].token), true});
        ++accepted;
        continue;
      }
      if (rejects() && i < draft.size()) {
        target.token = engine::draw_at(engine::residual(target.law, draft[i].law),
                                       uniform(rank, Purpose::kResidualSample));
        target.log_probability = log_probability_of(answers[i].logits, target.token);
      }
      tokens.push_back({position, target.token, target.log_probability, false});
      break;
    }
    return tokens;
  }

  bool stands(const Drawn& draft, const Drawn& target, int rank) const {
    if (!rejects()) return draft.token == target.token;
    const double p = target.law.probability(draft.token), q = draft.law.probability(draft.token);
    return p > 0 && uniform(rank, Purpose::kAcceptTest) * q <= p + options_.slack * q;
  }

  // Draft, then verify. The model's first draft is the target's own token; with nothing behind it
  // that is all.
  Task<void> round() {
    const bool by_model = options_.draft == DraftBy::kModel;
    if (by_model && (left() == 1 || options_.width == 1)) {
      co_await plain(1);
      co_return;
    }
    std::vector<Drawn> draft;
    if (by_model) {
      draft = co_await model_draft(width());
    } else {
      draft = ngram_draft(width());
    }
    std::vector<int32_t> ids;
    for (const Drawn& d : draft) ids.push_back(d.token);
    // Without a draft (nothing is decided yet) the one row behind it is all there is to ask.
    const bool behind = (options_.bonus || draft.empty()) && int(draft.size()) < left();
    std::vector<Want> wants;
    for (int i = 0; i < int(draft.size()) + behind; ++i)
      wants.push_back(want(streams_.decided() + i, target_));
    std::vector<RowAnswer> answers = co_await ask(ids, std::move(wants));
    int accepted = 0;
    const std::vector<Filled> tokens = verify(draft, answers, accepted);
    ++out_.rounds;
    out_.proposed += draft.size();
    out_.accepted += uint64_t(accepted);
    decide(tokens, int(draft.size()), accepted);
  }

  const InfillOptions& options_;
  const models::Config& config_;
  Sampling target_, draft_;
  Streams streams_;
  engine::Sampler sampler_;
  Infilled out_;
};

}  // namespace

std::vector<int> lattice_order(std::span<const int32_t> tokens) {
  std::vector<int> order;
  for (size_t p = 0; p < tokens.size(); ++p) {
    if (tokens[p] == kBlank) order.push_back(int(p));
  }
  return order;
}

std::vector<int> reversed_order(std::span<const int32_t> tokens) {
  std::vector<int> order = lattice_order(tokens);
  std::reverse(order.begin(), order.end());
  return order;
}

std::vector<int> random_order(std::span<const int32_t> tokens, uint64_t seed) {
  DrawKey key;
  key.seed = seed;
  key.purpose = Purpose::kDenoising;
  Draws draws(key);
  std::vector<int> order = lattice_order(tokens);
  draws.shuffle(order);
  return order;
}

void check(const models::Config& config, const InfillTask& task, const InfillOptions& o) {
  check_task(config, task, false);
  engine::validate(o.sampling, config.vocab);
  if (o.sampling.needs_history())
    refuse("penalties count what stands before a token, and here nothing has a before");
  if (o.width < 1 || o.width > config.context_length) {
    refuse("width " + std::to_string(o.width) + " is not in 1.." +
           std::to_string(config.context_length));
  }
  const bool drafts = o.fill == Fill::kAssd;
  if (!drafts && (o.draft == DraftBy::kNgram || o.bonus || o.accept == Accept::kReject)) {
    refuse("draft, accept and bonus are options of assd; leave them out");
  }
  if (o.slack < 0 || o.slack > 1) refuse("slack is not between 0 and 1");
  if (o.slack > 0 && !(drafts && o.accept == Accept::kReject))
    refuse("slack is an option of assd with accept=reject");
  if (o.draft_temperature >= 0 && !(drafts && o.draft == DraftBy::kModel)) {
    refuse("a draft temperature is an option of assd with draft=model");
  }
}

Task<Infilled> infill(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                      InfillTask task, InfillOptions options) {
  check(engine.model().config(), task, options);
  Filling filling(engine, std::move(request), task, options);
  co_return co_await filling.run();
}

Task<Score> score(engine::Engine& engine, std::shared_ptr<engine::Request> request, InfillTask task,
                  bool logits) {
  const models::Config& c = engine.model().config();
  check_task(c, task, true);
  Score out;
  if (task.order.empty()) co_return out;
  Streams streams(engine, std::move(request), task, true);
  std::vector<int32_t> tokens;
  std::vector<Want> wants;
  for (const int p : task.order) {
    tokens.push_back(task.tokens[size_t(p)]);
    Want& w = wants.emplace_back();
    w.at = {tokens.back()};
    if (c.mask_token >= 0) w.at.push_back(c.mask_token);
    w.stats = true;
    w.logits = logits;
  }
  // The last token's content is seen by nobody.
  std::vector<RowAnswer> answers =
      co_await streams.ask(std::span(tokens).first(tokens.size() - 1), std::move(wants));
  for (size_t i = 0; i < answers.size(); ++i) {
    const RowAnswer& a = answers[i];
    const double mask = a.at.size() > 1 ? double(a.at[1]) : -HUGE_VAL;
    out.filled.push_back({task.order[i], tokens[i],
                          log_probability(double(a.at[0]), double(a.stats.lse), mask), false});
    out.log_probability += out.filled.back().log_probability;
    if (logits) out.logits.push_back(std::move(answers[i].logits));
  }
  co_return out;
}

}  // namespace tutti::decode::anyorder
