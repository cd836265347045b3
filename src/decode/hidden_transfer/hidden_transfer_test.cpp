// Hidden Transfer and Medusa give the text of plain decoding, whatever their maps are and whatever
// is asked for; rows beside a tree see what they should and leave no trace.
#include "decode/hidden_transfer/hidden_transfer.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "decode/hidden_transfer/future_rows.h"
#include "decode/hidden_transfer/random_maps.h"
#include "decode/speculative/lossless.h"
#include "engine/test_programs.h"

namespace tutti::decode {
namespace {

using namespace speculative;
using train::TransferMaps;
using Options = std::map<std::string, std::string>;

// Maps on disk for as long as a test runs.
class Folder {
 public:
  Folder(const TransferMaps& maps, const std::string& name)
      : path_(std::filesystem::path(testing::TempDir()) / ("tutti-maps-" + name)) {
    maps.write(path_, false);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

std::vector<TinyWorld::Job> jobs_of(int count, float temperature, int tokens) {
  return endless_jobs(count, temperature, tokens,
                      [](int i) { return echoing_prompt(uint32_t(i), 1 + i % 40); });
}

void use(std::vector<TinyWorld::Job>& jobs, const std::string& method, const Options& options) {
  for (auto& job : jobs) {
    job.options.method = method;
    job.options.method_options = options;
  }
}

TransferMaps medusa_maps(const TinyWorld& world, Draws& draws) {
  TransferMaps maps = random_maps(world.tiny.model->checkpoint(), draws, {2, 2, 2}, 0.05f, 0);
  maps.kind = TransferMaps::Kind::kMedusa;
  return maps;
}

TEST(HiddenTransfer, TextOfFiftyPromptsIsThatOfPlain) {
  Draws draws(4);
  for (const float temperature : {0.0f, 0.8f}) {
    TinyWorld world;
    auto jobs = jobs_of(50, temperature, 40);
    const auto plain = run_plain(world, jobs);
    const auto& checkpoint = world.tiny.model->checkpoint();
    TransferMaps early = random_maps(checkpoint, draws, {0, 1, 2}, 0.02f, 1);
    TransferMaps exit = random_maps(checkpoint, draws, {1, 1}, 0.02f, 1);
    exit.refined = false;
    TransferMaps alone = random_maps(checkpoint, draws, {1, 1, 1}, 0.3f, 0);
    alone.see_previous = false;
    const Folder maps(early, "early"), exits(exit, "exit"), garbage(alone, "garbage"),
        blocks(medusa_maps(world, draws), "blocks");
    struct Case {
      std::string method;
      Options options;
    };
    for (const Case& c : {
             Case{"hidden-transfer", {{"maps", maps.path()}}},
             Case{"hidden-transfer",
                  {{"maps", maps.path()}, {"adaptive", "0"}, {"nodes", "20"}, {"carriers", "9"}}},
             Case{"hidden-transfer", {{"maps", exits.path()}, {"adaptive", "0"}}},
             Case{"hidden-transfer",
                  {{"maps", garbage.path()}, {"adaptive", "0"}, {"lazy_head", "1"}}},
             Case{"hidden-transfer",
                  {{"maps", maps.path()}, {"adaptive", "0"}, {"paths", "[[0],[1],[0,2],[0,0,0]]"}}},
             Case{"medusa", {{"maps", blocks.path()}, {"adaptive", "0"}}},
         }) {
      use(jobs, c.method, c.options);
      const auto got = world.run(jobs);
      for (size_t i = 0; i < jobs.size(); ++i)
        expect_same(plain[i], got[i], c.method + ", prompt " + std::to_string(i));
      if (!c.options.contains("adaptive")) continue;  // how much it drafts depends on the clock
      const MethodStatistics sum = total(got);
      EXPECT_GT(sum.proposed, 1000u);
      EXPECT_GT(sum.accepted, 5u);  // else nothing was verified
    }
    EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
  }
}

TEST(HiddenTransfer, EveryOptionOfARequestGivesTheSameAsPlain) {
  const Stood stood = expect_same_for_every_option(78, 10, 40, [&](TinyWorld& world, Draws& draws) {
    const std::vector<int> enter{draws.below(3), draws.below(3), draws.below(3)};
    const auto maps = std::make_shared<Folder>(
        random_maps(world.tiny.model->checkpoint(), draws, enter, 0.02f, 1), "maps");
    const auto blocks = std::make_shared<Folder>(medusa_maps(world, draws), "blocks");
    return [&draws, maps, blocks](TinyWorld::Job& job) {
      const bool medusa = draws.chance(0.25);
      job.options.method = draws.chance(0.1) ? "plain" : medusa ? "medusa" : "hidden-transfer";
      if (job.options.method == "plain") return;
      auto& o = job.options.method_options;
      o["maps"] = medusa ? blocks->path() : maps->path();
      o["adaptive"] = draws.chance(0.3) ? "1" : "0";
      o["offsets"] = std::to_string(draws.below(4));
      o["nodes"] = std::to_string(1 + draws.below(20));
      o["branches"] = std::to_string(1 + draws.below(8));
      o["draft_noise"] = draws.chance(0.5) ? "target" : "none";
      if (medusa) return;
      o["carriers"] = std::to_string(1 + draws.below(6));
      o["lazy_head"] = draws.chance(0.3) ? "1" : "0";
    };
  });
  EXPECT_GT(stood.all, 20u);
  EXPECT_GT(stood.constrained, 5u);
}

// Where a map is the identity and its row enters at the first layer, the row is the same token once
// more, one place further on.
TEST(FutureRows, AnIdentityAtTheFirstLayerIsTheTokenOneFurtherOn) {
  TinyWorld world;
  Draws draws(3);
  TransferMaps identity = random_maps(world.tiny.model->checkpoint(), draws, {0, 0}, 0.0f, 1.0f);
  identity.see_previous = false;
  const FutureMaps maps(identity);
  engine::run_programs(
      world.engine, {[&](std::shared_ptr<engine::Request> request) -> Task<void> {
        const auto prompt = tiny_prompt(1, 12);
        engine::Context context(world.engine, request);
        co_await world.engine.forward(
            context, engine::Rows::append(std::span(prompt).first(11), 0, std::nullopt));
        Tree tree(prompt.back());
        const int node = tree.add(Tree::kRoot, 40);
        const auto wants = [](int, int) { return engine::want_logits(); };
        engine::Rows rows = rows_of(tree, PickRule(), 11);
        std::vector<FutureRow> added;
        add_future_rows(rows, tree, 11, node, 2, maps, wants, added);
        EXPECT_EQ(added.size(), 2u);
        const engine::Answer answer = co_await world.engine.forward(context, std::move(rows));
        for (int offset = 0; offset < 2; ++offset) {
          engine::Context plain(world.engine, request);
          auto text = prompt;
          text.push_back(40);
          co_await world.engine.forward(plain, engine::Rows::append(text, 0, std::nullopt));
          engine::Rows again;
          again.rows.emplace_back(40, 13 + offset);
          again.rows.back().want = engine::want_logits();
          const engine::Answer expected = co_await world.engine.forward(plain, std::move(again));
          EXPECT_EQ(answer.rows[size_t(added[size_t(offset)].row)].logits,
                    expected.rows.front().logits);
        }
      }});
}

Tree random_tree(Draws& draws, int32_t root, int nodes) {
  Tree tree(root);
  while (tree.size() < nodes)
    tree.add(draws.below(tree.size()), 4 + draws.below(12), 0, double(draws.uniform(0, 1)));
  return tree;
}

// Of each slot of a Context, whose pages are there: its keys and values on all layers, in fp16.
std::vector<std::vector<uint16_t>> keys_and_values(engine::Engine& engine,
                                                   const engine::Context& context) {
  const tensor::KvLayout& layout = engine.pages().layout();
  EXPECT_EQ(layout.type, tensor::KvType::kF16);
  std::vector<std::vector<uint16_t>> slots;
  for (int x = 0; x < context.size(); ++x) {
    const auto place = context.state().find(x);
    std::vector<uint16_t> slot;
    for (int i = 0; i < layout.layers * layout.heads; ++i) {
      const auto* keys = reinterpret_cast<const uint16_t*>(engine.pages().pointers()[place.page] +
                                                           size_t(i) * layout.head_bytes());
      const auto* values = keys + layout.block_bytes() / 2;
      for (int d = 0; d < layout.head_dim; ++d) {
        slot.push_back(keys[d * tensor::kPageSlots + place.slot]);
        slot.push_back(values[place.slot * layout.head_dim + d]);
      }
    }
    slots.push_back(std::move(slot));
  }
  return slots;
}

// The rows beside a node of a tree, computed with everybody else's, have the bits that they have
// where its path is the text and they are alone; the tree's rows have the bits that they have
// without them; and what is kept is what decoding token by token keeps.
TEST(FutureRows, SeeTheirPathAloneAndLeaveNoTrace) {
  for (const int window : {0, 6}) {
    const engine::TinyModel tiny =
        engine::tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactQ8, 1, window);
    engine::Engine engine(tiny.model, tiny.pool, engine::small_engine());
    Draws draws(uint64_t(window) + 21);
    engine::run_programs(
        engine, {[&](std::shared_ptr<engine::Request> request) -> Task<void> {
          for (int round = 0; round < 10; ++round) {
            TransferMaps random =
                random_maps(tiny.model->checkpoint(), draws,
                            {draws.below(3), draws.below(3), draws.below(3)}, 0.2f, 0.5f);
            random.see_previous = draws.chance(0.7);
            random.refined = draws.chance(0.8);
            const FutureMaps maps(random);
            const auto wants = [](int, int) { return engine::want_logits(); };
            const auto node_wants = [](const PickRule&, int) { return engine::want_logits(); };
            const auto prompt = tiny_prompt(uint32_t(round), 20 + draws.below(30));
            const auto head = std::span(prompt).first(prompt.size() - 1);
            engine::Context context(engine, request);
            co_await engine.forward(context, engine::Rows::append(head, 0, std::nullopt));
            const int base = context.size();
            const Tree tree = random_tree(draws, prompt.back(), 1 + draws.below(10));
            engine::Context without = context.fork();
            const engine::Answer bare =
                co_await engine.forward(without, rows_of(tree, PickRule(), base, node_wants));
            engine::Rows rows = rows_of(tree, PickRule(), base, node_wants);
            std::vector<FutureRow> added;
            for (int node = 0; node < tree.size(); ++node)
              add_future_rows(rows, tree, base, node, 3, maps, wants, added);
            EXPECT_EQ(int(added.size()), 3 * tree.size());
            const engine::Answer answer = co_await engine.forward(context, std::move(rows));
            for (int node = 0; node < tree.size(); ++node) {
              EXPECT_EQ(answer.rows[size_t(node)].logits, bare.rows[size_t(node)].logits);
              std::vector<int32_t> path;
              for (int at = node; at > 0; at = tree[at].parent)
                path.insert(path.begin(), tree[at].token);
              std::vector<int32_t> text(head.begin(), head.end());
              text.push_back(prompt.back());
              text.insert(text.end(), path.begin(), path.end());
              engine::Context alone(engine, request);
              co_await engine.forward(
                  alone,
                  engine::Rows::append(std::span(text).first(text.size() - 1), 0, std::nullopt));
              const Tree one(text.back());
              engine::Rows few = rows_of(one, PickRule(), int(text.size()) - 1, node_wants);
              std::vector<FutureRow> beside;
              add_future_rows(few, one, int(text.size()) - 1, 0, 3, maps, wants, beside);
              const engine::Answer expected = co_await engine.forward(alone, std::move(few));
              for (const FutureRow& b : beside) {
                const FutureRow& a = added[size_t(node * 3 + b.offset)];
                EXPECT_EQ(a.node, node);
                EXPECT_EQ(answer.rows[size_t(a.row)].logits, expected.rows[size_t(b.row)].logits)
                    << "node " << node << ", offset " << b.offset;
              }
            }
            // Rows that were written nowhere are not in the Context: what is kept are the tokens of
            // one path, as plain appends would have left them.
            EXPECT_EQ(context.size(), base + tree.size());
            std::vector<int> kept;
            for (int n = draws.below(tree.size()); n >= 0; n = tree[n].parent)
              kept.insert(kept.begin(), n);
            context.keep(base, kept);
            std::vector<int32_t> whole(head.begin(), head.end());
            for (const int n : kept) whole.push_back(tree[n].token);
            engine::Context plain(engine, request);
            co_await engine.forward(plain, engine::Rows::append(whole, 0, std::nullopt));
            co_await engine.restore(context);
            const auto got = keys_and_values(engine, context);
            co_await engine.restore(plain);
            EXPECT_EQ(got, keys_and_values(engine, plain));
            EXPECT_EQ(int(got.size()), int(whole.size()));
          }
        }});
    EXPECT_EQ(engine.pages().free(), engine.pages().total());
  }
}

TEST(FutureRows, StandWhereTheTextIsLikeliestToLeaveTheTree) {
  Tree tree(1);
  const int a = tree.add(Tree::kRoot, 5, 0, 0.9);  // leaves at the root: 0.1 - 0.05
  const int b = tree.add(a, 6, 0, 0.5);            // at a: 0.45, at b: 0.45 - 0.36
  const int c = tree.add(b, 7, 0, 0.8);            // at c: 0.36
  tree.add(Tree::kRoot, 8, 0, 0.05);
  EXPECT_EQ(likeliest_ends(tree, 1), (std::vector<int>{a}));
  EXPECT_EQ(likeliest_ends(tree, 2), (std::vector<int>{a, c}));
  EXPECT_EQ(likeliest_ends(tree, 3), (std::vector<int>{a, b, c}));
  EXPECT_EQ(likeliest_ends(tree, 99).size(), 5u);
}

TEST(HiddenTransfer, RefusesWhatDoesNotFit) {
  TinyWorld world;
  Draws draws(9);
  const TransferMaps maps = random_maps(world.tiny.model->checkpoint(), draws, {1, 1}, 0.1f, 1);
  TransferMaps other = maps;
  other.model ^= 1;
  TransferMaps deeper = maps;
  deeper.layers = 3;
  const Folder good(maps, "good"), of_another(other, "other"), of_deeper(deeper, "deeper"),
      blocks(medusa_maps(world, draws), "blocks");
  const auto refused = [&](const std::string& method, const Options& options) -> std::string {
    GenerationOptions o;
    o.method = method;
    o.max_tokens = 3;
    o.method_options = options;
    try {
      world.run(tiny_prompt(1, 5), o);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  const auto says = [&](const std::string& method, const Options& options, const char* what) {
    EXPECT_NE(refused(method, options).find(what), std::string::npos)
        << method << ": " << refused(method, options);
  };
  EXPECT_EQ(refused("hidden-transfer", {{"maps", good.path()}}), "");
  says("hidden-transfer", {}, "needs trained maps");
  says("hidden-transfer", {{"maps", "/nowhere"}}, "/nowhere");
  says("hidden-transfer", {{"maps", of_another.path()}}, "another model of the same shape");
  says("hidden-transfer", {{"maps", of_deeper.path()}}, "number of layers is 3, this one's is 2");
  says("hidden-transfer", {{"maps", blocks.path()}}, "which method medusa reads");
  says("medusa", {{"maps", good.path()}}, "which method hidden-transfer reads");
  says("hidden-transfer", {{"maps", good.path()}, {"offsets", "3"}}, "maps for 2");
  says("hidden-transfer", {{"maps", good.path()}, {"paths", "[[0,0,0]]"}}, "maps for 2");
  says("hidden-transfer", {{"maps", good.path()}, {"paths", "[[-1]]"}}, "paths of ranks");
  says("hidden-transfer", {{"maps", good.path()}, {"draft_noise", "x"}}, "target or none");
}

}  // namespace
}  // namespace tutti::decode
