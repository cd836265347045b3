#include "decode/speculative/draft.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "base/error.h"
#include "decode/generation.h"
#include "decode/speculative/acceptance.h"
#include "decode/speculative/draft_run.h"
#include "decode/speculative/remote_draft.h"
#include "decode/speculative/speculate.h"

namespace tutti::decode {

namespace speculative {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What both kinds of model drafter share: the options, the order for one run, what was learnt.
class ModelDrafter : public Drafter {
 public:
  ModelDrafter(Generation& g, Verification verification, const std::string& name)
      : g_(g),
        longest_(int_option(g, "draft_max", 1, 256)),
        shortest_(int_option(g, "draft_min", 0, 256)),
        branches_(int_option(g, "branches", 1, 32)),
        p_min_(number_option(g, "draft_p_min", 0, 1)),
        noise_(noise_option(g)),
        rejection_(verification == Verification::kRejection),
        experience_(experience_of(g.engine(), name, expected_acceptance())) {
    if (shortest_ > longest_) {
      throw Error(ErrorKind::kUsage, "option draft_min=" + std::to_string(shortest_) +
                                         ": is more than draft_max=" + std::to_string(longest_));
    }
    for (const auto& [option, only] :
         {std::pair{"draft_min", "0"}, {"draft_p_min", "0"}, {"draft_noise", "target"}}) {
      refuse_for_rejection(g, option, only);
    }
    if (rejection_) noise_ = DraftNoise::kOwn;
  }

  Experience* experience() final { return &experience_; }

  void learn(const Tree& tree, const Accepted& accepted) final {
    acceptance_.learn(tree, accepted);
    if (!tree.children(Tree::kRoot).empty())
      acceptance_.record(any_first_choice(), accepted.drafts() > 0);
  }

 protected:
  static DraftNoise noise_option(const Generation& g) {
    const std::string text = text_option(g, "draft_noise");
    if (text == "target") return DraftNoise::kTarget;
    if (text == "none") return DraftNoise::kNone;
    throw Error(ErrorKind::kUsage, "option draft_noise=" + text + ": wants target or none");
  }

  // In tokens, what drafting gains beyond its first forward: at least 0 where it is worth that.
  double gain(const Pace& pace) const {
    const double row = pace.price(0), all = pace.price(0, experience_.seconds);
    return all > 1 ? -1 : experience_.promise.tokens() - (all - row);
  }
  bool worth(const Pace& pace) const {
    return !pace.adaptive() || pace.probing() || gain(pace) >= 0;
  }

  DraftOrder order(const Pace& pace, const engine::Context& context, int depth) const {
    DraftOrder order;
    order.rule = g_.rule().detached();
    order.position = context.next_position() + 1;
    order.depth = std::min(depth, longest_);
    order.branches = branches_;
    order.p_min = p_min_;
    order.noise = noise_;
    order.distributions = rejection_;
    order.vocabulary = g_.engine().model().config().vocab;
    if (!g_.options().ignore_eos) order.ends = g_.tokenizer().end_ids();
    order.least_reach.clear();
    for (int n = 0; n <= order.depth * branches_; ++n)
      order.least_reach.push_back(pace.least_reach(n, experience_.seconds));
    for (int kind = 0; kind <= any_first_choice(); ++kind)
      order.acceptance.push_back(acceptance_[kind]);
    return order;
  }

  // Counts a run that took `seconds`.
  Tree finish(DraftResult result, double seconds, const Pace& pace) {
    if (const double row = pace.price(0); row <= 1 && result.forwards > 0) {
      const bool any = result.tree.drafted() > 0;
      experience_.promise.learn(any ? std::max(result.tree[1].reach - row, 0.0) : 0.0,
                                pace.probing());
    }
    MethodStatistics& s = g_.statistics();
    s.draft_forwards += uint64_t(result.forwards);
    s.draft_seconds += seconds;
    // A request's first run reads its prompt, too.
    const double each = seconds / std::max(result.forwards, 1);
    double& mean = experience_.seconds;
    if (runs_ > 0) mean = mean == 0 ? each : mean + (each - mean) * 0.1;
    ++runs_;
    return result.tree.depth() < shortest_ ? Tree(g_.last_token()) : std::move(result.tree);
  }

  Generation& g_;
  int longest_, shortest_, branches_;
  double p_min_;
  DraftNoise noise_;
  bool rejection_;
  Experience& experience_;  // its seconds: of a draft forward with all that it takes to get there
  Acceptance acceptance_{experience_.acceptance};
  int runs_ = 0;
};

// What it takes the draft model to read a request's prompt, which its first draft waits for.
struct Reading {
  double seconds_per_token = 0;  // 0: not measured
  double trial_seconds = 0;      // spent where drafts only were a probe
};
// Of the engine's time, what reading prompts for probes may take.
constexpr double kTrialShare = 0.01;

class SecondModel final : public ModelDrafter {
 public:
  SecondModel(Generation& g, Verification verification, std::shared_ptr<const DraftModel> model)
      : ModelDrafter(g, verification, "draft"),
        remote_(std::move(model)),
        reading_(g.engine().kept<Reading>()) {}

  Task<Tree> draft(engine::Context& context, const Pace& pace, int depth) override {
    const int room = remote_.model().engine().model().config().context_length -
                     int(g_.prompt().size() + g_.output().size());
    if (room <= 0 || remote_.model().failed() || !worth(pace) || !worth_reading(pace) ||
        !g_.rule().leaves_some(remote_.model().vocabulary(), remote_.model().head_tokens().get())) {
      remote_.rest();
      co_return Tree(g_.last_token());
    }
    DraftOrder order = this->order(pace, context, std::min(depth, room));
    order.vocabulary = std::min(order.vocabulary, remote_.model().vocabulary());
    order.head_tokens = remote_.model().head_tokens();
    // Tokens that stood when the last draft was asked for are there already.
    const auto& prompt = g_.prompt();
    const auto& output = g_.output();
    const size_t known = std::exchange(standing_, prompt.size() + output.size());
    for (size_t i = known; i < standing_; ++i) {
      order.tokens.push_back(i < prompt.size() ? prompt[i] : output[i - prompt.size()]);
    }
    const auto start = Clock::now();
    DraftResult result = co_await remote_.run(known, std::move(order));
    const double seconds = seconds_since(start);
    if (known == 0) read(seconds, pace.probing());
    co_return finish(std::move(result), seconds, pace);
  }

 private:
  // Whether this request's drafts are worth that its text is read for them, once.
  bool worth_reading(const Pace& pace) const {
    if (standing_ > 0) return true;
    const double seconds =
        reading_.seconds_per_token * double(g_.prompt().size() + g_.output().size());
    // Both in tokens: what drafts gain in the forwards to come, and the time of reading.
    const double reading =
        pace.price(0, experience_.seconds + seconds) - pace.price(0, experience_.seconds);
    if (!pace.adaptive() || gain(pace) * g_.room() >= reading) return true;
    const double all = g_.engine().statistics().forward_seconds;
    return pace.probing() && reading_.trial_seconds + seconds <= kTrialShare * all;
  }

  // The first draft took `seconds`.
  void read(double seconds, bool probing) {
    const double each = seconds / double(standing_);
    double& mean = reading_.seconds_per_token;
    mean = mean == 0 ? each : mean + (each - mean) * 0.1;
    if (probing) reading_.trial_seconds += seconds;
  }

  RemoteDraft remote_;
  Reading& reading_;
  size_t standing_ = 0;
};

class FirstLayers final : public ModelDrafter {
 public:
  FirstLayers(Generation& g, Verification verification, int exit_layer)
      : ModelDrafter(g, verification, "early-exit " + std::to_string(exit_layer)),
        exit_layer_(exit_layer) {}

  Task<Tree> draft(engine::Context& context, const Pace& pace, int depth) override {
    if (!worth(pace)) co_return Tree(g_.last_token());
    DraftOrder order = this->order(pace, context, depth);
    order.tokens = {g_.last_token()};
    order.layers.leave = exit_layer_;
    const auto start = Clock::now();
    // Drafted slots have keys on the first layers only, so they go to a fork that nobody else sees.
    engine::Context aside = context.fork();
    DraftResult result = co_await run_draft(g_.engine(), aside, std::move(order));
    co_return finish(std::move(result), seconds_since(start), pace);
  }

 private:
  int exit_layer_;
};

std::vector<MethodOption> model_options() {
  return {{"draft_max", "16", "tokens drafted one after the other at most, 1 to 256"},
          {"draft_min", "0", "shorter drafts are left, 0 to 256"},
          {"draft_p_min", "0", "a draft of less probability ends its path, 0 to 1"},
          {"branches", "1", "drafts side by side on each level, 1 to 32"},
          {"draft_noise", "target",
           "target: ranked with the noise of the target's pick; none: the likeliest"},
          {"verify", "match", "match: the text of plain; rejection: its law"},
          {"adaptive", "1", "1: draft only what pays by measured costs; 0: all"}};
}

}  // namespace
}  // namespace speculative

std::vector<MethodOption> draft_options() { return speculative::model_options(); }

Task<void> draft(Generation& g) {
  const auto verification = speculative::verification_option(g);
  const bool adaptive = speculative::adaptive_option(g);
  if (!g.options().draft_model) {
    throw Error(ErrorKind::kUsage,
                "method draft: needs a draft model; name one with --draft-model");
  }
  speculative::SecondModel drafter(g, verification, g.options().draft_model);
  co_await speculative::speculate(g, drafter, verification, adaptive);
}

std::vector<MethodOption> early_exit_options() {
  auto options = speculative::model_options();
  options.insert(options.begin(),
                 {"exit_layer", "0", "layers that draft, 1 to all but one; 0: half of them"});
  return options;
}

Task<void> early_exit(Generation& g) {
  const auto verification = speculative::verification_option(g);
  const bool adaptive = speculative::adaptive_option(g);
  const int layers = g.engine().model().config().layers;
  int exit_layer = int_option(g, "exit_layer", 0, layers - 1);
  if (exit_layer == 0) exit_layer = std::max(layers / 2, 1);
  speculative::FirstLayers drafter(g, verification, exit_layer);
  co_await speculative::speculate(g, drafter, verification, adaptive);
}

}  // namespace tutti::decode
