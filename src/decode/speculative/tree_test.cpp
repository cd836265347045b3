// Trees: their shape, and that a node's row in one forward has the bits that its path has when it
// is decoded alone.
#include "decode/speculative/tree.h"

#include <gtest/gtest.h>

#include "base/draws.h"
#include "decode/tiny_text.h"
#include "engine/test_programs.h"

namespace tutti::decode::speculative {
namespace {

using Ids = std::vector<int32_t>;

Tree random_tree(Draws& draws, int32_t root, int nodes) {
  Tree tree(root);
  while (tree.size() < nodes)
    tree.add(draws.below(tree.size()), 4 + draws.below(12), 0, double(draws.uniform(0, 1)));
  return tree;
}

Ids path_to(const Tree& tree, int node) {
  Ids path;
  for (; node >= 0; node = tree[node].parent) path.insert(path.begin(), tree[node].token);
  return path;
}

TEST(Tree, MergesDuplicatesAndKnowsItsShape) {
  Tree tree(7);
  EXPECT_TRUE(tree.chain());
  EXPECT_EQ(tree.depth(), 0);
  const int a = tree.add(Tree::kRoot, 5, 2, 0.5);
  const int b = tree.add(a, 6, 0, 0.5);
  EXPECT_TRUE(tree.chain());
  EXPECT_EQ(tree.add(Tree::kRoot, 5, 1, 0.9), a);
  EXPECT_EQ(tree[a].kind, 2);
  EXPECT_DOUBLE_EQ(tree[b].reach, 0.25);
  const int c = tree.add(Tree::kRoot, 8, 0, 0.3);
  EXPECT_FALSE(tree.chain());
  EXPECT_EQ(tree.children(Tree::kRoot), (std::vector<int>{a, c}));
  EXPECT_EQ(tree.child(Tree::kRoot, 8), c);
  EXPECT_EQ(tree.child(a, 8), -1);
  EXPECT_EQ(tree.depth(), 2);
  EXPECT_EQ(tree.drafted(), 3);
  const Tree two = tree.best(2);
  EXPECT_EQ(two.size(), 3);
  EXPECT_EQ(two[1].token, 5);
  EXPECT_EQ(two[2].token, 8);
  EXPECT_EQ(tree.best(0).size(), 1);
  EXPECT_EQ(tree.best(9).size(), 4);
}

TEST(Tree, TheBestNodesAreATreeOfTheLargestReach) {
  Draws draws(3);
  for (int i = 0; i < 200; ++i) {
    const Tree tree = random_tree(draws, 1, 2 + draws.below(20));
    const int count = draws.below(tree.size());
    const Tree best = tree.best(count);
    ASSERT_EQ(best.drafted(), count);
    double sum = 0;
    for (int n = 1; n < best.size(); ++n) {
      sum += best[n].reach;
      ASSERT_LT(best[n].parent, n);
      // Its path is a path of the whole tree.
      int at = Tree::kRoot;
      const Ids path = path_to(best, n);
      for (size_t d = 1; d < path.size(); ++d) at = tree.child(at, path[d]);
      ASSERT_GT(at, 0);
      ASSERT_EQ(tree[at].reach, best[n].reach);
    }
    std::vector<double> reach;
    for (int n = 1; n < tree.size(); ++n) reach.push_back(tree[n].reach);
    std::sort(reach.rbegin(), reach.rend());
    double most = 0;
    for (int n = 0; n < count; ++n) most += reach[size_t(n)];
    ASSERT_NEAR(sum, most, 1e-12);
  }
}

TEST(Tree, PruningTakesWhatCannotBeEmitted) {
  Tree tree(1);
  const int end = tree.add(Tree::kRoot, kTinyEos);
  tree.add(end, 9);  // after the end
  const int a = tree.add(Tree::kRoot, 10);
  tree.add(tree.add(tree.add(a, 11), 12), 13);  // too deep
  const Tree left = tree.pruned(3, PickRule(), kTinyVocab, [](int32_t t) { return t == kTinyEos; });
  EXPECT_EQ(left.drafted(), 3);
  EXPECT_EQ(left.depth(), 3);
  EXPECT_EQ(left.child(Tree::kRoot, kTinyEos), -1);
  // A draw stays: whether it is accepted decides between it and the rest.
  tree.set_drawn_from(Tree::kRoot, engine::Distribution({kTinyEos, 10}, {0.5, 0.5}));
  const Tree drawn =
      tree.pruned(3, PickRule(), kTinyVocab, [](int32_t t) { return t == kTinyEos; });
  EXPECT_EQ(drawn.drafted(), 4);
  EXPECT_EQ(drawn.drawn_from(Tree::kRoot)->ids, (std::vector<int32_t>{kTinyEos, 10}));
}

// Every row of a tree has the logits of its path decoded alone, with penalties of that path; what
// is kept goes on as if the rest had never been.
TEST(Tree, RowsAreTheirPathsAndUnacceptedOnesLeaveNoTrace) {
  for (const std::string architecture : {"qwen3", "gemma3"}) {
    const engine::TinyModel tiny = engine::tiny_model(
        tensor::Type::kF32, tensor::Arithmetic::kExactQ8, 1, architecture == "gemma3" ? 6 : 0);
    engine::Engine engine(tiny.model, tiny.pool, engine::small_engine());
    engine::Sampling sampling;
    sampling.temperature = 0.9f;
    sampling.frequency_penalty = 0.7f;
    sampling.logprobs = 2;
    DrawKey key;
    key.seed = 5;
    Draws draws(11);
    engine::run_programs(
        engine, {[&](std::shared_ptr<engine::Request> request) -> Task<void> {
          for (int round = 0; round < 12; ++round) {
            const Ids prompt = tiny_prompt(uint32_t(round), 20 + draws.below(30));
            auto history = std::make_shared<engine::History>(-1);
            history->append_prompt(prompt);
            const PickRule rule(sampling, key, history, nullptr);
            const auto wants = [](const PickRule& r, int position) {
              engine::Want want = r.want(position);
              want.logits = true;
              return want;
            };
            engine::Context context(engine, request);
            const std::span<const int32_t> head(prompt.data(), prompt.size() - 1);
            co_await engine.forward(context, engine::Rows::append(head, 0, std::nullopt));
            const int base = context.size();
            const Tree tree = random_tree(draws, prompt.back(), 1 + draws.below(14));
            engine::Rows rows = rows_of(tree, rule, base, wants);
            const engine::Answer answer = co_await engine.forward(context, std::move(rows));
            for (int node = 0; node < tree.size(); ++node) {
              Ids alone(head.begin(), head.end());
              PickRule alone_rule = rule.detached();
              const Ids path = path_to(tree, node);
              for (size_t d = 0; d < path.size(); ++d) {
                alone.push_back(path[d]);
                if (d > 0) alone_rule.advance(path[d]);
              }
              engine::Context plain(engine, request);
              engine::Rows one =
                  engine::Rows::append(alone, 0, wants(alone_rule, int(alone.size())));
              const engine::Answer expected = co_await engine.forward(plain, std::move(one));
              EXPECT_EQ(answer.rows[size_t(node)].logits, expected.rows.back().logits)
                  << "node " << node;
              EXPECT_EQ(answer.rows[size_t(node)].picked.token, expected.rows.back().picked.token);
            }
            // Keep one path, and go on after it.
            const int leaf = draws.below(tree.size());
            std::vector<int> kept;
            for (int n = leaf; n >= 0; n = tree[n].parent) kept.insert(kept.begin(), n);
            context.keep(base, kept);
            Ids whole(head.begin(), head.end());
            for (const int32_t t : path_to(tree, leaf)) whole.push_back(t);
            EXPECT_EQ(context.size(), int(whole.size()));
            engine::Rows next;
            next.rows.emplace_back(50, context.next_position());
            next.rows.back().want = wants(rule, 0);
            const engine::Answer went_on = co_await engine.forward(context, std::move(next));
            whole.push_back(50);
            engine::Context plain(engine, request);
            engine::Rows again = engine::Rows::append(whole, 0, wants(rule, 0));
            const engine::Answer expected = co_await engine.forward(plain, std::move(again));
            EXPECT_EQ(went_on.rows.back().logits, expected.rows.back().logits);
            for (const auto& slot : context.state().recipe) EXPECT_EQ(slot.special, nullptr);
          }
        }});
    EXPECT_EQ(engine.pages().free(), engine.pages().total());
  }
}

TEST(Tree, MatchFollowsThePicks) {
  Tree tree(1);
  const int a = tree.add(Tree::kRoot, 5);
  const int b = tree.add(Tree::kRoot, 6);
  const int c = tree.add(b, 7);
  engine::Answer answer;
  answer.rows.resize(4);
  answer.rows[0].picked.token = 6;
  answer.rows[size_t(a)].picked.token = 9;
  answer.rows[size_t(b)].picked.token = 8;
  answer.rows[size_t(c)].picked.token = 9;
  Accepted accepted = match(tree, answer);
  EXPECT_EQ(accepted.nodes, (std::vector<int>{0, b}));
  EXPECT_EQ(accepted.picked.back().token, 8);
  answer.rows[size_t(b)].picked.token = 7;
  accepted = match(tree, answer);
  EXPECT_EQ(accepted.nodes, (std::vector<int>{0, b, c}));
  EXPECT_EQ(accepted.drafts(), 2);
}

}  // namespace
}  // namespace tutti::decode::speculative
