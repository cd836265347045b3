#include "decode/speculative/speculate.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "base/error.h"
#include "decode/draft_counts.h"
#include "decode/method.h"
#include "decode/speculative/reject.h"

namespace tutti::decode::speculative {

namespace {

void count(MethodStatistics& s, int rows, const Tree& tree, const Accepted& accepted) {
  ++s.forwards;
  s.rows += uint64_t(rows);
  s.proposed += uint64_t(tree.drafted());
  s.accepted += uint64_t(accepted.drafts());
  count_drafts(s, size_t(tree.depth()), size_t(accepted.drafts()));
}

// What would have come of the one draft of `likeliest`, had it been put down: the forward without
// wrote the token that it stood for.
Accepted untried(const Tree& likeliest, const Accepted& without) {
  Accepted with;
  with.nodes = {Tree::kRoot};
  const bool stands = likeliest.drafted() > 0 && !without.picked.empty() &&
                      without.picked.front().token == likeliest[1].token;
  if (stands) with.nodes.push_back(1);
  return with;
}

}  // namespace

void settle(Generation& g, engine::Context& context, int base, int rows, const Tree& tree,
            const Accepted& accepted) {
  context.keep(base, accepted.nodes);
  count(g.statistics(), rows, tree, accepted);
  for (const engine::Picked& picked : accepted.picked) g.emit(picked);
}

Task<Accepted> verify(Generation& g, engine::Context& context, const Tree& tree,
                      Verification verification, Drafter* drafter) {
  const int base = context.size(), position = context.next_position();
  const bool by_match = verification == Verification::kMatch;
  engine::Rows rows =
      by_match ? rows_of(tree, g.rule(), position) : rows_for_rejection(tree, g.rule(), position);
  if (drafter) drafter->add_rows(tree, position, rows);
  const int count_of_rows = int(rows.rows.size());
  engine::Answer answer = co_await g.forward(context, std::move(rows));
  Accepted accepted = by_match ? match(tree, answer) : reject(tree, answer, g.rule(), position);
  settle(g, context, base, count_of_rows, tree, accepted);
  if (drafter && !g.done())
    co_await drafter->read_answer(context, tree, accepted, std::move(answer));
  co_return accepted;
}

Task<void> speculate(Generation& g, Drafter& drafter, Verification verification, bool adaptive) {
  if (verification == Verification::kRejection && g.options().sampling.logprobs >= 0) {
    throw Error(
        ErrorKind::kUsage,
        "option verify=rejection: gives no log-probabilities; leave logprobs out, or verify=match");
  }
  const int vocabulary = g.engine().model().config().vocab;
  Experience* const experience = drafter.experience();
  Pace pace(g.engine().cost(), g.engine().statistics(), adaptive,
            experience ? &experience->probes : nullptr, drafter.free(),
            drafter.carries() ? nullptr : &g.engine().kept<Offers>());
  engine::Context context = co_await g.prefill();
  if (!g.output().empty()) ++g.statistics().forwards;
  while (!g.done()) {
    pace.begin(context.size() + 1);
    pace.carry(drafter.carried(pace));
    Tree tree(g.last_token());
    const auto start = std::chrono::steady_clock::now();
    double seconds_to_draft = 0;
    const int depth = g.room() - 1;  // the forward itself picks one more
    Tree drafted = tree;
    if (depth > 0) {
      drafted = co_await drafter.draft(context, pace, depth);
      tree = drafted.pruned(depth, g.rule(), vocabulary,
                            [&](int32_t token) { return g.is_end(token); });
      seconds_to_draft =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      // Of draws, leaving out what looks unlikely would change the law.
      if (!tree.drawn_from(Tree::kRoot) && pace.offer(tree)) {
        co_await g.engine().after_others();
        tree = pace.trim(tree);
      }
    }
    const size_t before = g.output().size();
    const Accepted accepted = co_await verify(g, context, tree, verification, &drafter);
    pace.end(tree.size(), int(g.output().size() - before), seconds_to_draft);
    if (tree.drafted() == 0 && drafter.free()) {
      const Tree likeliest = drafted.best(1);
      drafter.learn(likeliest, untried(likeliest, accepted));
    } else {
      drafter.learn(tree, accepted);
    }
  }
}

void refuse_for_rejection(const Generation& g, std::string_view option, std::string_view only) {
  if (verification_option(g) != Verification::kRejection || text_option(g, option) == only) return;
  throw Error(ErrorKind::kUsage, "option " + std::string(option) + "=" + text_option(g, option) +
                                     ": would change the law of verify=rejection; leave it at " +
                                     std::string(only));
}

bool adaptive_option(const Generation& g) { return int_option(g, "adaptive", 0, 1) != 0; }

Verification verification_option(const Generation& g) {
  const std::string text = text_option(g, "verify");
  if (text == "match") return Verification::kMatch;
  if (text == "rejection") return Verification::kRejection;
  throw Error(ErrorKind::kUsage, "option verify=" + text + ": wants match or rejection");
}

}  // namespace tutti::decode::speculative
