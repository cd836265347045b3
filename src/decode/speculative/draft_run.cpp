#include "decode/speculative/draft_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "check/guess_kind.h"

namespace tutti::decode::speculative {

namespace {

constexpr int kAnyFirst = check::kGuessKinds;

struct Candidate {
  int parent;
  int32_t token;
  int kind;
  double reach;  // expected
};

class Run {
 public:
  Run(engine::Engine& engine, engine::Context& context, DraftOrder order)
      : engine_(engine), context_(context), order_(std::move(order)), rules_{order_.rule} {
    result_.tree = Tree(order_.tokens.back());
  }

  Task<DraftResult> run() {
    if (!leaves_some(order_.rule)) co_return std::move(result_);
    std::vector<int> level{Tree::kRoot};
    engine::Rows first =
        engine::Rows::append(order_.tokens, context_.next_position(), want(Tree::kRoot));
    for (engine::Row& row : first.rows) row.active = order_.layers;
    first.splittable = order_.layers.leave == INT32_MAX;
    while (true) {
      engine::Rows rows = result_.forwards == 0 ? std::move(first) : rows_of_level(level);
      const engine::Answer answer = co_await engine_.forward(context_, std::move(rows));
      if (++result_.forwards == 1) {
        slots_ = {context_.size() - 1};
        base_ = context_.size();
      }
      // The first forward has rows of tokens before the root.
      const size_t skip = answer.rows.size() - level.size();
      std::vector<Candidate> candidates;
      for (size_t i = 0; i < level.size(); ++i)
        propose(level[i], answer.rows[skip + i], candidates);
      level = grow(std::move(candidates));
      if (level.empty() || result_.tree[level.front()].depth >= order_.depth || !pays(level)) break;
    }
    if (order_.branches > 1) {
      context_.truncate(base_);  // the level's rows were just answered: their pages are there
    } else {
      result_.fed = context_.size() - base_;
    }
    co_return std::move(result_);
  }

 private:
  engine::Want want(int node) const {
    engine::Want want = rules_[size_t(node)].want(order_.position + result_.tree[node].depth);
    engine::Sampling& s = want.sampling;
    s.ranked = std::min(std::max(order_.branches, 2), engine_.model().config().vocab);
    s.ranked_probabilities = order_.p_min > 0;
    s.logprobs = -1;
    if (order_.noise == DraftNoise::kNone) s.temperature = 0;
    if (order_.noise == DraftNoise::kOwn) want.key.purpose = Purpose::kDraftSample;
    want.logits = order_.distributions;
    for (int32_t id = order_.vocabulary; id < engine_.model().config().vocab; ++id)
      s.suppressed.push_back(id);
    const size_t words = size_t(engine_.model().config().vocab + 63) / 64;
    if (s.allowed && s.allowed->size() < words) {  // the draft model's vocabulary has more padding
      auto wider = std::make_shared<std::vector<uint64_t>>(*s.allowed);
      wider->resize(words, 0);
      s.allowed = std::move(wider);
    }
    return want;
  }

  bool leaves_some(const PickRule& rule) const {
    return rule.leaves_some(order_.vocabulary, order_.head_tokens.get());
  }

  // The rows of a level's nodes: each sees the root's Context, its ancestors and itself.
  engine::Rows rows_of_level(const std::vector<int>& level) {
    engine::Rows rows;
    const int position = context_.next_position();  // a level after the other
    int fed = context_.size();
    for (const int node : level) {
      const Tree::Node& n = result_.tree[node];
      engine::Row row(n.token, position);
      row.active = order_.layers;
      if (order_.branches > 1) {
        engine::View view{engine::Segment::slots(0, base_)};
        std::vector<int> path;
        for (int at = n.parent; at > 0; at = result_.tree[at].parent)
          path.push_back(slots_[size_t(at)]);
        for (auto it = path.rbegin(); it != path.rend(); ++it)
          view.push_back(engine::Segment::slots(*it, 1));
        row.view = rows.add_view(std::move(view));
      }
      row.want = want(node);
      slots_[size_t(node)] = fed++;
      rows.rows.push_back(std::move(row));
    }
    return rows;
  }

  void propose(int node, const engine::RowAnswer& answer, std::vector<Candidate>& candidates) {
    const auto& ranked = answer.picked.ranked;
    if (order_.distributions) {
      std::vector<float> logits = answer.logits;
      const PickRule& rule = rules_[size_t(node)];
      static const engine::History kEmpty;
      const engine::Want wanted = want(node);
      result_.tree.set_drawn_from(
          node, engine::Sampler().distribution(logits, wanted.sampling,
                                               rule.history() ? *rule.history() : kEmpty));
    }
    for (size_t r = 0; r < ranked.size() && int(r) < order_.branches; ++r) {
      // Draws are kept whole: leaving some for their probability would change their law.
      if (order_.p_min > 0 && order_.noise != DraftNoise::kOwn &&
          std::exp(double(ranked[r].log_probability)) < order_.p_min)
        continue;
      const double first = ranked[0].height,
                   second = ranked.size() > 1 ? ranked[1].height : first - 1e9;
      const int kind = check::guess_kind(int(r), first, second, ranked[r].height);
      candidates.push_back({node, ranked[r].token, kind,
                            result_.tree[node].reach * order_.acceptance[size_t(kind)]});
    }
  }

  // Adds the most promising candidates; returns those that can be drafted after.
  std::vector<int> grow(std::vector<Candidate> candidates) {
    // Draws stay in the order in which they were drawn.
    if (order_.noise != DraftNoise::kOwn) {
      std::stable_sort(candidates.begin(), candidates.end(),
                       [](const Candidate& a, const Candidate& b) { return a.reach > b.reach; });
    }
    if (int(candidates.size()) > order_.branches) candidates.resize(size_t(order_.branches));
    std::vector<int> level;
    for (const Candidate& c : candidates) {
      const int node =
          result_.tree.add(c.parent, c.token, c.kind, order_.acceptance[size_t(c.kind)]);
      rules_.resize(size_t(result_.tree.size()));
      slots_.resize(size_t(result_.tree.size()), -1);
      if (std::ranges::find(order_.ends, c.token) != order_.ends.end()) continue;
      rules_[size_t(node)] = rules_[size_t(c.parent)].after(c.token);
      if (leaves_some(rules_[size_t(node)])) level.push_back(node);
    }
    return level;
  }

  // Whether the next level is expected to be worth its forward.
  bool pays(const std::vector<int>& level) const {
    double best = 0;
    for (const int node : level) best = std::max(best, result_.tree[node].reach);
    const size_t n = std::min(size_t(result_.tree.drafted()), order_.least_reach.size() - 1);
    return best * order_.acceptance[kAnyFirst] >= order_.least_reach[n];
  }

  engine::Engine& engine_;
  engine::Context& context_;
  DraftOrder order_;
  DraftResult result_;
  std::vector<PickRule> rules_;  // after each node
  std::vector<int> slots_;       // of each node that was fed
  int base_ = 0;                 // slots with the root
};

}  // namespace

// First choices, and any of them, as 3,471 drafts of weights/smollm2-draft stood in texts of
// bench/prompts.py: those of a small draft model. A better one shows at once that it is.
std::vector<double> expected_acceptance() {
  return {0.13, 0.15, 0.2, 0.3, 0.6, 0.95, 0.12, 0.1, 0.05, 0.03, 0.01, 0.27};
}

int any_first_choice() { return kAnyFirst; }

Task<DraftResult> run_draft(engine::Engine& engine, engine::Context& context, DraftOrder order) {
  Run run(engine, context, std::move(order));
  co_return co_await run.run();
}

}  // namespace tutti::decode::speculative
