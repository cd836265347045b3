// Parallel prompt decoding gives the text of plain decoding whatever its prompt tokens say; its
// rows are those of sequences of their own and leave no trace; and it is faster where they are
// right.
#include "decode/ppd/ppd.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "decode/ppd/beside.h"
#include "decode/ppd/measure.h"
#include "decode/ppd/step.h"
#include "decode/ppd/tree_choice.h"
#include "decode/speculative/lossless.h"
#include "decode/speculative/tree_file.h"
#include "formats/safetensors.h"
#include "formats/temporary_folder.h"

namespace tutti::decode {
namespace {

using formats::TemporaryFolder;
using ppd::PromptTokens;
using speculative::expect_same;
using Options = std::map<std::string, std::string>;

constexpr int kHidden = 64;

std::vector<float> random_matrix(int rows, int cols, uint64_t seed) {
  Draws draws(seed);
  std::vector<float> values;
  for (int i = 0; i < rows * cols; ++i) values.push_back(draws.uniform(-1, 1));
  return values;
}

void write_prompts(const std::filesystem::path& folder, const std::string& config, uint64_t rows,
                   uint64_t cols, const std::string& name = "prompt_embeddings") {
  const auto values = random_matrix(int(rows), int(cols), 5);
  formats::SafetensorsTensor t;
  t.name = name;
  t.shape = {rows, cols};
  t.data = std::as_bytes(std::span(values));
  formats::write_safetensors(folder / "adapter_model.safetensors", {t});
  write_file_atomically(folder / "adapter_config.json", config);
}

const speculative::AcceptanceTable kTable{
    {0.3, 0.15, 0.1, 0.05, 0.05}, {0.2, 0.1, 0.08, 0.05, 0.03}, {0.15, 0.1, 0.05, 0.05, 0.03}};

// Three random prompt tokens and trees for them.
struct Prompts {
  explicit Prompts(speculative::AcceptanceTable table = kTable, int hidden = kHidden) {
    write_prompts(folder.path(), R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3})", 3,
                  uint64_t(hidden));
    speculative::TreeFile file;
    file.method = "ppd";
    file.trees = speculative::trees_by_price(table, 40);
    file.acceptance = std::move(table);
    write_file_atomically(folder / "tree.json", speculative::print_tree_file(file));
  }
  Options options(Options others = {}) const {
    others["prompt_tokens"] = folder.path().string();
    return others;
  }
  TemporaryFolder folder;
};

std::vector<TinyWorld::Job> jobs_of(int count, float temperature, int tokens) {
  return speculative::endless_jobs(count, temperature, tokens, [](int i) {
    return speculative::echoing_prompt(uint32_t(i), 8 + i % 40);
  });
}

TEST(Ppd, TextOfFiftyPromptsIsThatOfPlain) {
  const Prompts prompts;
  for (const float temperature : {0.0f, 0.8f}) {
    TinyWorld world;
    auto jobs = jobs_of(50, temperature, 48);
    const auto plain = speculative::run_plain(world, jobs);
    for (const Options& options :
         {Options{}, Options{{"rows", "8"}}, Options{{"rows", "40"}},
          Options{{"rows", "24"}, {"head", "lazy"}}, Options{{"rows", "16"}, {"lookup", "8"}}}) {
      for (auto& job : jobs) {
        job.options.method = "ppd";
        job.options.method_options = prompts.options(options);
      }
      const auto got = world.run(jobs);
      for (size_t i = 0; i < jobs.size(); ++i)
        expect_same(plain[i], got[i], "prompt " + std::to_string(i));
      const MethodStatistics sum = speculative::total(got);
      if (!options.contains("rows")) continue;  // how much it drafts then depends on the clock
      EXPECT_GT(sum.proposed, 1000u);
      EXPECT_GT(sum.accepted, 30u);  // else nothing was verified
    }
    EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
  }
}

// The candidates are the same whether the head reads all prompt rows or, later, those that matter.
TEST(Ppd, ALazyHeadFindsTheSameCandidates) {
  const Prompts prompts;
  for (const float temperature : {0.0f, 0.7f}) {
    std::vector<MethodStatistics> sums;
    for (const char* head : {"all", "lazy"}) {
      TinyWorld world;
      auto jobs = jobs_of(12, temperature, 40);
      for (auto& job : jobs) {
        job.options.method = "ppd";
        job.options.method_options = prompts.options({{"rows", "24"}, {"head", head}});
      }
      sums.push_back(speculative::total(world.run(jobs)));
    }
    EXPECT_GT(sums[0].accepted, 5u);
    EXPECT_EQ(sums[0].accepted, sums[1].accepted);
    EXPECT_EQ(sums[0].proposed, sums[1].proposed);
    EXPECT_EQ(sums[0].draft_forwards, 0u);
    EXPECT_GT(sums[1].draft_forwards, sums[1].forwards / 2);  // the head in forwards of its own
  }
}

TEST(Ppd, EveryOptionOfARequestGivesTheSameAsPlain) {
  const Prompts prompts;
  const speculative::Stood stood =
      speculative::expect_same_for_every_option(78, 10, 50, [&](TinyWorld&, Draws& draws) {
        return [&draws, &prompts](TinyWorld::Job& job) {
          job.options.method = draws.chance(0.1) ? "plain" : "ppd";
          if (job.options.method == "plain") return;
          Options o;
          if (draws.chance(0.8)) o["rows"] = std::to_string(4 + draws.below(40));
          if (draws.chance(0.3)) o["lookup"] = std::to_string(1 + draws.below(6));
          if (draws.chance(0.3)) o["head"] = "lazy";
          job.options.method_options = prompts.options(o);
        };
      });
  EXPECT_GT(stood.all, 200u);
  EXPECT_GT(stood.constrained, 20u);
}

// Runs a program on an engine.
template <class Program>
void run_program(TinyWorld& world, const Program& program) {
  std::exception_ptr error;
  const auto request = world.engine.new_request();
  world.engine.spawn(
      request, [&]() -> Task<void> { co_await program(request); },
      [&](std::exception_ptr e) { error = e; });
  world.engine.run();
  if (error) std::rethrow_exception(error);
}

// A tree of two levels and its candidates.
ppd::StepTree some_step() {
  ppd::Candidates candidates(2);
  for (int i = 0; i < 3; ++i) {
    engine::RankedToken token;
    token.token = 50 + i;
    candidates[0].push_back(token);
    token.token = 70 + i;
    candidates[1].push_back(token);
  }
  speculative::StateTree plan = speculative::candidate_tree({{.4, .3, .2}, {.4, .3, .2}}, 2, 7, 3);
  int prompts = 0;
  for (auto& node : plan) node.prompts = prompts++ % 4;
  plan.front().prompts = 3;
  return ppd::place(plan, 44, candidates);
}

engine::Want all_logits(const PickRule&, int) {
  engine::Want want;
  want.logits = true;
  return want;
}

TEST(Ppd, APromptRowIsTheEndOfASequenceOfItsOwn) {
  TinyWorld world;
  const Prompts files;
  const PromptTokens prompts = PromptTokens::read(files.folder.path());
  const ppd::StepTree step = some_step();
  ASSERT_EQ(step.tree.size(), 8);
  const std::vector<int32_t> text = tiny_prompt(3, 37);
  run_program(world, [&](std::shared_ptr<engine::Request> request) -> Task<void> {
    const PickRule rule;
    engine::Context context(world.engine, request);
    co_await world.engine.forward(context, engine::Rows::append(text, 0, std::nullopt));
    const engine::Answer answer = co_await world.engine.forward(
        context, ppd::rows_of(step, prompts, rule, int(text.size()), all_logits));
    int compared = 0;
    for (int node = 0; node < step.tree.size(); ++node) {
      std::vector<int32_t> path;
      for (int at = node; at >= 0; at = step.tree[at].parent)
        path.insert(path.begin(), step.tree[at].token);
      engine::Context alone(world.engine, request);
      co_await world.engine.forward(alone, engine::Rows::append(text, 0, std::nullopt));
      engine::Rows rows = engine::Rows::append(path, int(text.size()), std::nullopt);
      for (int j = 0; j < step.prompts[size_t(node)]; ++j) {
        engine::Row row;
        row.in.kind = engine::RowInput::kVector;
        row.in.vector = prompts.vectors[size_t(j)];
        row.position = int(text.size() + path.size()) + j;
        row.want = all_logits(rule, 0);
        rows.rows.push_back(row);
      }
      rows.splittable = false;
      const engine::Answer own = co_await world.engine.forward(alone, std::move(rows));
      for (int j = 0; j < step.prompts[size_t(node)]; ++j, ++compared) {
        EXPECT_EQ(answer.rows[size_t(ppd::first_prompt(step, node) + j)].logits,
                  own.rows[path.size() + size_t(j)].logits)
            << "node " << node << ", prompt " << j;
      }
    }
    EXPECT_GT(compared, 10);
  });
}

TEST(Ppd, NothingOfPromptRowsIsKept) {
  TinyWorld world;
  const Prompts files;
  const PromptTokens prompts = PromptTokens::read(files.folder.path());
  const ppd::StepTree step = some_step();
  const std::vector<int32_t> text = tiny_prompt(4, 45);
  const TemporaryFolder folder;
  run_program(world, [&](std::shared_ptr<engine::Request> request) -> Task<void> {
    engine::Context context(world.engine, request);
    co_await world.engine.forward(context, engine::Rows::append(text, 0, std::nullopt));
    co_await world.engine.forward(
        context, ppd::rows_of(step, prompts, PickRule(), int(text.size()), all_logits));
    // The last node and what leads to it.
    std::vector<int> kept;
    std::vector<int32_t> tokens = text;
    for (int at = step.tree.size() - 1; at >= 0; at = step.tree[at].parent)
      kept.insert(kept.begin(), at);
    for (const int node : kept) tokens.push_back(step.tree[node].token);
    context.keep(int(text.size()), kept);
    context.save(folder / "tree");
    engine::Context plain(world.engine, request);
    co_await world.engine.forward(plain, engine::Rows::append(tokens, 0, std::nullopt));
    plain.save(folder / "plain");
    EXPECT_GT(kept.size(), 2u);
  });
  EXPECT_EQ(read_file(folder / "tree"), read_file(folder / "plain"));
}

// Measured on texts of plain decoding, each rank's share is what a count by hand gives.
TEST(Ppd, AccuracyIsTheShareOfTextsTokens) {
  TinyWorld world;
  const Prompts files;
  const PromptTokens prompts = PromptTokens::read(files.folder.path());
  GenerationOptions o;
  o.max_tokens = 30;
  o.ignore_eos = true;
  std::vector<ppd::MeasuredText> texts(2);
  for (uint32_t i = 0; i < 2; ++i) {
    texts[i].tokens = tiny_prompt(i, 12);
    texts[i].prompt = 12;
    const auto written = world.run(texts[i].tokens, o).completions.front().ids;
    texts[i].tokens.insert(texts[i].tokens.end(), written.begin(), written.end());
  }
  run_program(world, [&](std::shared_ptr<engine::Request> request) -> Task<void> {
    const ppd::Accuracy got =
        co_await ppd::measure_accuracy(world.engine, request, prompts, texts, 96);
    // Places 11 to 42 - 3 - 2 = 37 of each; every token is among 96 ranks.
    EXPECT_EQ(got.anchors, 2u * 27u);
    for (const auto& row : got.table()) {
      double sum = 0;
      for (const double share : row) sum += share;
      EXPECT_NEAR(sum, 1, 1e-12);
    }
    uint64_t first = 0;
    for (const auto& text : texts) {
      for (size_t anchor = 11; anchor <= 37; ++anchor) {
        engine::Context context(world.engine, request);
        const std::vector<int32_t> before(text.tokens.begin(),
                                          text.tokens.begin() + std::ptrdiff_t(anchor) + 1);
        engine::Rows rows = engine::Rows::append(before, 0, std::nullopt);
        engine::Row row;
        row.in.kind = engine::RowInput::kVector;
        row.in.vector = prompts.vectors[0];
        row.position = int(before.size());
        engine::Want want;
        want.pick = true;
        want.sampling.temperature = 0;
        row.want = want;
        rows.rows.push_back(row);
        rows.splittable = false;
        const engine::Answer answer = co_await world.engine.forward(context, std::move(rows));
        first += answer.rows.back().picked.token == text.tokens[anchor + 2];
      }
    }
    EXPECT_EQ(got.hits[0][0], first);
  });
}

TEST(Ppd, RisingTablesNeverFallAndGoOn) {
  const auto seconds = ppd::rising({{8, 4.0}, {1, 1.0}, {2, 3.0}, {4, 2.0}, {16, 8.0}});
  EXPECT_EQ(seconds(1), 1);
  EXPECT_EQ(seconds(2), 2.5);  // 3 and 2 together
  EXPECT_EQ(seconds(4), 2.5);
  EXPECT_EQ(seconds(6), 3.25);
  EXPECT_EQ(seconds(32), 16);
}

// Forwards that cost one unit, and `price` more for every row beyond the first.
engine::CostTable costs(double price) {
  engine::CostTable cost;
  for (const int r : {1, 2, 4, 8, 16, 32, 64})
    for (int i = 0; i < 5; ++i) cost.record(r, 100, 1e-3 * (1 + price * (r - 1)));
  return cost;
}

// On a machine where a row costs much, trees are left; where it costs little, large ones are taken.
TEST(Ppd, TreesAreChosenByTheirCost) {
  const auto trees = speculative::trees_by_price(kTable, 40);
  const auto chosen = [&](double price, int stood, int rows) {
    const engine::CostTable cost = costs(price);
    const engine::EngineStatistics statistics;
    speculative::Pace pace(cost, statistics, true);
    ppd::TreeChoice choice(trees, rows);
    for (int i = 0; i < 200; ++i) choice.learn(1.0, stood);
    pace.begin(100);
    const auto* t = choice.choose(pace);
    return t ? speculative::steady_state(*t).rows : 0.0;
  };
  EXPECT_EQ(chosen(0.9, 1, 0), 0);
  EXPECT_GT(chosen(0.1, 1, 0), 2);
  EXPECT_GT(chosen(0.01, 1, 0), chosen(0.1, 1, 0));
  EXPECT_EQ(chosen(0.1, 0, 0), 0);   // a text in which nothing stands
  EXPECT_GT(chosen(0.9, 0, 12), 2);  // named rows are taken anyhow
  EXPECT_LE(chosen(0.9, 0, 12), 12);
  // A text that went better than the trees can give does not make them larger without end.
  EXPECT_GE(chosen(0.1, 2, 0), chosen(0.1, 1, 0));
  EXPECT_EQ(chosen(0.1, 2, 0), chosen(0.1, 16, 0));
  EXPECT_LT(chosen(0.1, 16, 0), chosen(0.01, 1, 0));
}

// Drafts a chain of tokens, and notes what it is taught.
class Chain final : public speculative::Drafter {
 public:
  struct Lesson {
    int drafted, stood;
    bool operator==(const Lesson&) const = default;
  };
  Chain(const std::vector<std::pair<int32_t, double>>& drafts, std::vector<Lesson>& lessons)
      : lessons_(lessons) {
    int node = speculative::Tree::kRoot;
    for (const auto& [token, acceptance] : drafts) node = tree_.add(node, token, 0, acceptance);
  }
  Task<speculative::Tree> draft(engine::Context&, const speculative::Pace&, int) override {
    co_return tree_;
  }
  void learn(const speculative::Tree& tree, const speculative::Accepted& accepted) override {
    lessons_.push_back({tree.drafted(), accepted.drafts()});
  }

 private:
  speculative::Tree tree_{5};
  std::vector<Lesson>& lessons_;
};

// What stands of `tree` when the model picks these tokens.
speculative::Accepted picks(const speculative::Tree& tree, const std::vector<int32_t>& tokens) {
  engine::Answer answer;
  answer.rows.resize(size_t(tree.size()));
  int node = speculative::Tree::kRoot;
  for (const int32_t token : tokens) {
    if (node < 0) break;
    answer.rows[size_t(node)].picked.token = token;
    node = tree.child(node, token);
  }
  return speculative::match(tree, answer);
}

// Of drafts that were not put down nobody knows whether they were right: the drafter must not hear
// that they were wrong.
TEST(Ppd, DraftsBesideThatAreLeftOutTeachNothing) {
  TinyWorld world;
  const engine::CostTable cost = costs(0.5);  // a draft must stand every other time
  const engine::EngineStatistics statistics;
  run_program(world, [&](std::shared_ptr<engine::Request> request) -> Task<void> {
    engine::Context context(world.engine, request);
    speculative::Pace pace(cost, statistics, true);
    pace.begin(100);
    std::vector<Chain::Lesson> lessons;
    ppd::Beside some(std::make_unique<Chain>(
        std::vector<std::pair<int32_t, double>>{{7, .9}, {8, .9}, {9, .1}}, lessons));
    ppd::StepTree step{speculative::Tree(5), {0}};
    co_await some.add(context, pace, 10, step);
    EXPECT_EQ(step.tree.drafted(), 2);
    EXPECT_EQ(step.prompts, std::vector<int>(3, 0));
    some.learn(step.tree, picks(step.tree, {7, 8, 9}));
    EXPECT_EQ(lessons.back(), (Chain::Lesson{2, 2}));

    // None pays. After a while the first three are tried all the same.
    lessons.clear();
    ppd::Beside none(std::make_unique<Chain>(
        std::vector<std::pair<int32_t, double>>{{7, .1}, {8, .9}, {9, .9}, {10, .9}}, lessons));
    for (int i = 0; i < 40; ++i) {
      ppd::StepTree other{speculative::Tree(5), {0}};
      co_await none.add(context, pace, 10, other);
      none.learn(other.tree, picks(other.tree, {7, 8, 9, 10}));
    }
    EXPECT_EQ(std::count(lessons.begin(), lessons.end(), (Chain::Lesson{0, 0})), 39);
    EXPECT_EQ(std::count(lessons.begin(), lessons.end(), (Chain::Lesson{3, 3})), 1);
  });
}

TEST(Ppd, OnlyCandidatesOfThePlanCountForTheTrees) {
  speculative::Tree tree(5);
  const int planned = tree.add(speculative::Tree::kRoot, 7, ppd::kPlanned);
  tree.add(tree.add(planned, 8, ppd::kBeside), 9, ppd::kBeside);
  EXPECT_EQ(ppd::planned(tree, picks(tree, {7, 8, 9, 1})), 1);
  EXPECT_EQ(ppd::planned(tree, picks(tree, {3})), 0);
}

std::string refusal(const Options& options, ErrorKind kind) {
  TinyWorld world;
  GenerationOptions o;
  o.method = "ppd";
  o.max_tokens = 2;
  o.method_options = options;
  try {
    world.run(tiny_prompt(1, 5), o);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    return e.what();
  }
  return "";
}

TEST(Ppd, SaysWhatDoesNotFit) {
  const Prompts prompts;
  EXPECT_EQ(refusal(prompts.options(), ErrorKind::kUsage), "");
  const auto expect = [](const Options& options, ErrorKind kind, const std::string& what) {
    const std::string got = refusal(options, kind);
    EXPECT_NE(got.find(what), std::string::npos) << got;
  };
  expect({}, ErrorKind::kUsage, "option prompt_tokens");
  expect({{"prompt_tokens", "/nowhere"}}, ErrorKind::kNotFound, "adapter_config.json");
  expect(prompts.options({{"head", "some"}}), ErrorKind::kUsage, "all or lazy");
  expect(prompts.options({{"rows", "-1"}}), ErrorKind::kUsage, "rows=-1");
  const Prompts wide(kTable, 80);
  expect(wide.options(), ErrorKind::kUsage, "80 numbers each, but the model's hidden size is 64");
  const Prompts two({{0.3, 0.1}, {0.2, 0.1}});
  expect(two.options(), ErrorKind::kUsage, "is of 2 prompt tokens, but there are 3");
  const Prompts foreign;
  speculative::TreeFile trees = speculative::read_tree_file(foreign.folder / "tree.json", "ppd");
  trees.method = "other";
  write_file_atomically(foreign.folder / "tree.json", speculative::print_tree_file(trees));
  expect(foreign.options(), ErrorKind::kUsage, "is of method \"other\"");
  std::filesystem::remove(two.folder / "tree.json");
  expect(two.options(), ErrorKind::kNotFound, "tutti ppd tune");
  const TemporaryFolder f;
  const auto folder = [&](const std::string& config) {
    write_prompts(f.path(), config, 3, kHidden);
    return Options{{"prompt_tokens", f.path().string()}};
  };
  expect(folder(R"({"peft_type": "LORA"})"), ErrorKind::kUnsupported, "peft_type is \"LORA\"");
  expect(folder(R"({"virtual_tokens_per_special_token": 2})"), ErrorKind::kUnsupported,
         "2 virtual tokens per prompt token");
  expect(folder(R"({"use_custom_lm_head": true})"), ErrorKind::kUnsupported, "use_custom_lm_head");
  expect(folder(R"({"num_virtual_tokens": 4})"), ErrorKind::kBadFile,
         "num_virtual_tokens is 4, but adapter_model.safetensors holds 3");
  write_prompts(f.path(), "{}", 3, kHidden, "prompt_encoder.default.embedding.weight");  // any name
  EXPECT_EQ(PromptTokens::read(f.path()).count(), 3);
  std::filesystem::rename(f / "adapter_model.safetensors", f / "adapter_model.bin");
  expect({{"prompt_tokens", f.path().string()}}, ErrorKind::kUnsupported, "pickled");
}

}  // namespace
}  // namespace tutti::decode
