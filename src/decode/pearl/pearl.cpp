#include "decode/pearl/pearl.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/experimental/parallel_group.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "decode/generation.h"
#include "decode/pearl/pearl_pace.h"
#include "decode/speculative/remote_draft.h"
#include "decode/speculative/speculate.h"

namespace tutti::decode {

namespace {

using namespace speculative;
using Clock = std::chrono::steady_clock;

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

// Both at the same time. Throws what the first to fail throws: that cancels the other, whose error
// says no more than this.
template <class A, class B>
Task<std::pair<A, B>> both(Task<A> a, Task<B> b) {
  const auto executor = co_await asio::this_coro::executor;
  auto [order, a_error, a_value, b_error, b_value] =
      co_await asio::experimental::make_parallel_group(
          asio::co_spawn(executor, std::move(a), asio::deferred),
          asio::co_spawn(executor, std::move(b), asio::deferred))
          .async_wait(asio::experimental::wait_for_one_error(), asio::use_awaitable);
  if (order[0] == 1 && b_error) std::rethrow_exception(b_error);
  if (a_error) std::rethrow_exception(a_error);
  if (b_error) std::rethrow_exception(b_error);
  co_return std::pair<A, B>(std::move(a_value), std::move(b_value));
}

class Pearl {
 public:
  explicit Pearl(Generation& g)
      : g_(g),
        remote_(g.options().draft_model),
        gamma_(int_option(g, "gamma", 0, 256)),
        most_(int_option(g, "draft_max", 1, 256)),
        pre_(int_option(g, "pre_verify", 0, 1) != 0),
        post_(int_option(g, "post_verify", 0, 1) != 0),
        pace_(remote_.model().times(), adaptive_option(g)) {
    const std::string noise = text_option(g, "draft_noise");
    if (noise != "target" && noise != "none") {
      throw Error(ErrorKind::kUsage, "option draft_noise=" + noise + ": wants target or none");
    }
    noise_ = noise == "target" ? DraftNoise::kTarget : DraftNoise::kNone;
  }

  Task<void> run() {
    engine::Context context;
    if (pace_.drafts() && pre_ && g_.room() > 1 && can_draft()) {
      // Both read the prompt, and the first draft is checked with the target's first pick.
      auto [read, drafted] = co_await both(g_.prefill(), draft());
      context = std::move(read);
      count(drafted);
      if (!g_.output().empty()) take(drafted.tree, g_.output().front());
    } else {
      context = co_await g_.prefill();
    }
    if (!g_.output().empty()) ++g_.statistics().forwards;
    auto began = Clock::now();
    size_t before = g_.output().size();
    while (!g_.done()) {
      const bool rests = !pace_.drafts() || remote_.model().failed();
      if (rests && suffix_.empty()) remote_.rest();
      bool drafts = pace_.drafts() && can_draft() && (suffix_.empty() || post_);
      if (drafts && suffix_.empty() && !pre_) {
        // Without pre-verification the target waits for a whole draft.
        const DraftResult drafted = co_await draft();
        count(drafted);
        suffix_ = chain_after(drafted.tree, Tree::kRoot);
        if (!suffix_.empty()) continue;
        drafts = false;  // the draft would end the text: the target says whether it does
      }
      const size_t unverified = suffix_.size();
      const bool drafting = drafts || unverified > 0;
      const Tree tree = tree_of_suffix();
      Accepted accepted;
      DraftResult drafted;
      if (drafts) {
        auto [a, d] = co_await both(timed_verify(context, tree), draft());
        accepted = std::move(a);
        drafted = std::move(d);
      } else {
        accepted = co_await timed_verify(context, tree);
      }
      if (drafts) {
        count(drafted);
        learn_cost(drafted);
      }
      // All that was unverified stands: what was drafted behind it may stand, too.
      const bool all = size_t(accepted.drafts()) == unverified;
      run_ += size_t(accepted.drafts());
      suffix_.clear();
      if (all && drafts) take(drafted.tree, accepted.picked.back().token);
      // What is left out of the tree lies behind the end of the text.
      if (accepted.drafts() < tree.drafted()) end_run();
      pace_.end(drafting, int(g_.output().size() - before), seconds(Clock::now() - began));
      began = Clock::now();
      before = g_.output().size();
    }
    if (run_ > 0) end_run();
  }

 private:
  bool can_draft() const {
    const int held = int(g_.prompt().size() + g_.output().size() + suffix_.size());
    return !remote_.model().failed() &&
           held < remote_.model().engine().model().config().context_length &&
           int(suffix_.size()) + 1 < g_.room() &&
           rule_after_suffix().leaves_some(remote_.model().vocabulary(),
                                           remote_.model().head_tokens().get());
  }

  PickRule rule_after_suffix() const {
    PickRule rule = g_.rule().detached();
    for (const int32_t token : suffix_) rule.advance(token);
    return rule;
  }

  Task<DraftResult> draft() {
    DraftOrder order;
    order.rule = rule_after_suffix();
    const auto& prompt = g_.prompt();
    const auto& output = g_.output();
    const size_t known = std::exchange(standing_, prompt.size() + output.size());
    for (size_t i = known; i < standing_; ++i)
      order.tokens.push_back(i < prompt.size() ? prompt[i] : output[i - prompt.size()]);
    order.tokens.insert(order.tokens.end(), suffix_.begin(), suffix_.end());
    order.position = int(standing_ + suffix_.size());
    const int context = remote_.model().engine().model().config().context_length;
    order.depth = std::min({gamma_ > 0 ? gamma_ : measured_, context - order.position,
                            g_.room() - int(suffix_.size())});
    order.noise = noise_;
    order.vocabulary = std::min(g_.engine().model().config().vocab, remote_.model().vocabulary());
    order.head_tokens = remote_.model().head_tokens();
    if (!g_.options().ignore_eos) order.ends = g_.tokenizer().end_ids();
    order.acceptance.assign(size_t(any_first_choice()) + 1, 1.0);
    co_return co_await remote_.run(known, std::move(order));
  }

  // The drafts of a chain from `node` on, up to an end token: it is enough that the target picks
  // that.
  std::vector<int32_t> chain_after(const Tree& tree, int node) const {
    std::vector<int32_t> tokens;
    for (std::vector<int> next = tree.children(node); !next.empty();
         next = tree.children(next.front())) {
      const int32_t token = tree[next.front()].token;
      if (g_.is_end(token)) break;
      tokens.push_back(token);
    }
    return tokens;
  }

  // `picked` stands in the place of the first draft: if that is the same, the others are to be
  // verified next.
  void take(const Tree& tree, int32_t picked) {
    const int first = tree.child(Tree::kRoot, picked);
    ++g_.statistics().proposed;
    if (first < 0) return end_run();
    ++g_.statistics().accepted;
    ++run_;
    suffix_ = chain_after(tree, first);
  }

  Tree tree_of_suffix() const {
    Tree tree(g_.last_token());
    int at = Tree::kRoot;
    for (const int32_t token : suffix_) at = tree.add(at, token);
    return tree.pruned(g_.room() - 1, g_.rule(), g_.engine().model().config().vocab,
                       [&](int32_t token) { return g_.is_end(token); });
  }

  void end_run() {
    std::vector<uint64_t>& runs = g_.statistics().runs;
    if (runs.size() <= run_) runs.resize(run_ + 1);
    ++runs[run_];
    run_ = 0;
  }

  Task<Accepted> timed_verify(engine::Context& context, const Tree& tree) {
    verifying_ = Clock::now();
    Accepted accepted = co_await verify(g_, context, tree, Verification::kMatch);
    verified_ = Clock::now();
    co_return accepted;
  }

  void count(const DraftResult& drafted) {
    MethodStatistics& s = g_.statistics();
    s.draft_forwards += uint64_t(drafted.forwards);
    s.draft_seconds += seconds(drafted.ended - drafted.began);
    s.overlap_seconds += std::max(
        0.0, seconds(std::min(drafted.ended, verified_) - std::max(drafted.began, verifying_)));
  }

  // The draft is as long as the target's forward lasts: then neither waits (the paper's gamma = c).
  void learn_cost(const DraftResult& drafted) {
    if (drafted.forwards == 0) return;
    const auto follow = [](double& mean, double value) {
      mean = mean == 0 ? value : mean + (value - mean) * 0.2;
    };
    follow(draft_cost_, seconds(drafted.ended - drafted.began) / drafted.forwards);
    follow(target_cost_, seconds(verified_ - verifying_));
    measured_ = std::clamp(int(std::lround(target_cost_ / std::max(draft_cost_, 1e-6))), 1, most_);
  }

  Generation& g_;
  RemoteDraft remote_;
  int gamma_, most_;
  bool pre_, post_;
  PearlPace pace_;
  DraftNoise noise_ = DraftNoise::kTarget;
  std::vector<int32_t> suffix_;              // drafted behind the last token, not verified
  size_t standing_ = 0;                      // tokens that stood when the last draft was asked for
  size_t run_ = 0;                           // drafts that have stood since the last that did not
  int measured_ = 4;                         // drafts a step, until both costs are known
  double target_cost_ = 0, draft_cost_ = 0;  // seconds
  Clock::time_point verifying_, verified_;   // begin and end of the target's last forward
};

}  // namespace

std::vector<MethodOption> pearl_options() {
  return {{"gamma", "0",
           "tokens drafted at each step, 1 to 256; 0: as many as a forward of the target takes "
           "time for"},
          {"draft_max", "16", "of gamma=0: at most, 1 to 256"},
          {"pre_verify", "1", "0: the target waits for a draft when nothing is to be verified"},
          {"post_verify", "1", "0: the draft model waits while drafts are verified"},
          {"draft_noise", "target",
           "target: ranked with the noise of the target's pick; none: the likeliest"},
          {"adaptive", "1",
           "1: drafts as long as that is faster by the clock than the target alone with all cores; "
           "0: always"}};
}

Task<void> pearl(Generation& g) {
  if (!g.options().draft_model) {
    throw Error(ErrorKind::kUsage,
                "method pearl: needs a draft model; name one with --draft-model");
  }
  Pearl pearl(g);
  co_await pearl.run();
}

}  // namespace tutti::decode
