// Draft models, good and bad, and first layers that draft: the text is always that of plain
// decoding.
#include "decode/speculative/draft.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/error.h"
#include "decode/speculative/lossless.h"
#include "decode/speculative/served_draft.h"
#include "engine/test_programs.h"

namespace tutti::decode {
namespace {

using speculative::echoing_prompt;
using speculative::expect_same;
using speculative::ServedDraft;
using Options = std::map<std::string, std::string>;
using Jobs = std::vector<TinyWorld::Job>;

Jobs jobs_of(int count, float temperature, int tokens) {
  return speculative::endless_jobs(count, temperature, tokens,
                                   [](int i) { return tiny_prompt(uint32_t(i), 8 + i % 40); });
}

Jobs by(Jobs jobs, const std::string& method, const Options& options,
        const ServedDraft* draft = nullptr) {
  for (auto& job : jobs) {
    job.options.method = method;
    job.options.method_options = options;
    if (draft) job.options.draft_model = draft->model();
  }
  return jobs;
}

void expect_all_same(const std::vector<Outcome>& plain, const std::vector<Outcome>& got,
                     const std::string& what) {
  for (size_t i = 0; i < plain.size(); ++i)
    expect_same(plain[i], got[i], what + ", prompt " + std::to_string(i));
}

double acceptance(const std::vector<Outcome>& outcomes) {
  const MethodStatistics sum = speculative::total(outcomes);
  return double(sum.accepted) / double(sum.proposed);
}

TEST(Draft, TextOfFiftyPromptsIsThatOfPlainWhateverDrafts) {
  ServedDraft itself(tensor::Type::kF32), close(tensor::Type::kQ4_0),
      hostile(tensor::Type::kF32, "llama");
  for (const float temperature : {0.0f, 0.8f}) {
    TinyWorld world;
    const Jobs jobs = jobs_of(50, temperature, 64);
    const auto plain = speculative::run_plain(world, jobs);
    const Options four{{"adaptive", "0"}, {"draft_max", "4"}};

    const auto exact = world.run(by(jobs, "draft", four, &itself));
    expect_all_same(plain, exact, "the target drafts");
    // All that it drafts stands: five tokens a forward, but for the first and the last.
    const MethodStatistics sum = speculative::total(exact);
    EXPECT_EQ(sum.accepted, sum.proposed);
    EXPECT_EQ(sum.forwards, 50u * (1 + 13));
    EXPECT_GE(sum.draft_forwards, sum.proposed);

    const auto good = world.run(by(jobs, "draft", four, &close));
    expect_all_same(plain, good, "a coarser target drafts");
    EXPECT_GT(acceptance(good), 0.35);

    const auto bad = world.run(by(jobs, "draft", four, &hostile));
    expect_all_same(plain, bad, "another model drafts");
    EXPECT_LT(acceptance(bad), 0.2);
    EXPECT_LE(speculative::total(bad).forwards, 50u * 64u);

    const auto tree = world.run(
        by(jobs, "draft", {{"adaptive", "0"}, {"draft_max", "3"}, {"branches", "3"}}, &close));
    expect_all_same(plain, tree, "a tree");
    // More drafts side by side, so that more forwards get on.
    EXPECT_LT(speculative::total(tree).forwards,
              speculative::total(
                  world.run(by(jobs, "draft", {{"adaptive", "0"}, {"draft_max", "3"}}, &close)))
                  .forwards);

    expect_all_same(plain, world.run(by(jobs, "draft", {}, &close)), "adaptive");
    EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
  }
  for (ServedDraft* draft : {&itself, &close, &hostile}) {
    draft->end();
    EXPECT_EQ(draft->engine().pages().free(), draft->engine().pages().total());
  }
}

// The tiny target with a head of every third token only.
engine::TinyModel third_of_a_head(std::vector<int32_t>& tokens) {
  models::DraftShape shape;
  shape.head_dim = 16;
  shape.wide = 128;
  shape.vocab = kTinyVocab;
  shape.context = 8192;
  models::Draft draft = models::draft("qwen3", shape);
  const std::vector<float> embedding = draft.load().weights().embedding.floats();
  std::vector<float> rows;
  for (int32_t token = 0; token < kTinyVocab; token += 3) {
    tokens.push_back(token);
    const auto row = embedding.begin() + token * shape.hidden;
    rows.insert(rows.end(), row, row + shape.hidden);
  }
  draft.set("output.weight", {uint64_t(shape.hidden), tokens.size()}, rows, tensor::Type::kF32);
  draft.keys["qwen3.draft.head_tokens"] = formats::GgufValue::i32s(tokens);
  engine::TinyModel tiny;
  tiny.pool = std::make_shared<ComputePool>(1);
  tiny.model =
      std::make_shared<models::Model>(std::make_shared<const models::Checkpoint>(draft.load()),
                                      tensor::Arithmetic::kExactQ8, *tiny.pool);
  return tiny;
}

// Allows the tokens whose number leaves `rest` when divided by 3.
class OneInThree : public Constraint {
 public:
  explicit OneInThree(int rest) : rest_(rest) {}
  std::shared_ptr<const std::vector<uint64_t>> allowed() const override {
    auto bits = std::make_shared<std::vector<uint64_t>>(size_t(kTinyVocab + 63) / 64);
    for (int id = rest_; id < kTinyVocab; id += 3)
      (*bits)[size_t(id / 64)] |= uint64_t(1) << (id % 64);
    return bits;
  }
  std::shared_ptr<const Constraint> after(int32_t token) const override {
    return token % 3 == rest_ ? std::make_shared<OneInThree>(rest_) : nullptr;
  }

 private:
  int rest_;
};

TEST(Draft, AHeadOfSomeTokensDraftsTheseAndNoOthers) {
  std::vector<int32_t> tokens;
  ServedDraft some(third_of_a_head(tokens));
  ASSERT_NE(some.model()->head_tokens(), nullptr);
  for (const float temperature : {0.0f, 0.8f}) {
    TinyWorld world;
    Jobs jobs = jobs_of(20, temperature, 48);
    const auto plain = speculative::run_plain(world, jobs);
    for (const std::string branches : {"1", "3"}) {
      const Options four{{"adaptive", "0"}, {"draft_max", "4"}, {"branches", branches}};
      const auto got = world.run(by(jobs, "draft", four, &some));
      expect_all_same(plain, got, "branches " + branches);
      // What it can say it says as the target does, so that a good share stands.
      EXPECT_GT(speculative::total(got).accepted, 50u);
    }
    // Under a constraint that leaves it what it has, all stands; under another nothing is drafted.
    for (const int rest : {0, 1}) {
      for (auto& job : jobs) job.options.constraint = std::make_shared<OneInThree>(rest);
      const auto wanted = speculative::run_plain(world, jobs);
      const auto got = world.run(by(jobs, "draft", {{"adaptive", "0"}, {"draft_max", "4"}}, &some));
      expect_all_same(wanted, got, "constraint " + std::to_string(rest));
      const MethodStatistics sum = speculative::total(got);
      EXPECT_EQ(sum.accepted, sum.proposed);
      EXPECT_EQ(sum.proposed == 0, rest == 1);
    }
  }
}

// What an engine answers names tokens by their id, whatever rows the head has.
TEST(Draft, AHeadOfSomeTokensAnswersByToken) {
  std::vector<int32_t> tokens;
  const engine::TinyModel some = third_of_a_head(tokens);
  const engine::TinyModel whole =
      engine::tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactQ8, 1);
  engine::Want want;
  want.pick = want.logits = want.stats = true;
  want.top_k = 3;
  want.at = {3, 4};
  want.sampling.temperature = 0;
  want.sampling.logprobs = 2;
  engine::Want pick;
  pick.pick = true;
  pick.sampling.temperature = 0;
  engine::Want mixed = pick;
  mixed.mix = {{0, 0, 1.0f}};
  const auto ask = [&](const engine::TinyModel& tiny) {
    engine::Engine engine(tiny.model, tiny.pool, engine::small_engine());
    engine::Answer answer;
    engine::run_programs(engine, {[&](std::shared_ptr<engine::Request> request) -> Task<void> {
                           engine::Context context(engine, request);
                           engine::Rows rows;
                           for (int i = 0; i < 3; ++i) rows.rows.emplace_back(7 + i, i);
                           rows.rows[0].want = want;
                           rows.rows[1].want = mixed;
                           rows.rows[2].want = pick;
                           answer = co_await engine.forward(context, std::move(rows));
                         }});
    return answer;
  };
  const engine::Answer got = ask(some), wanted = ask(whole);
  const std::vector<float>& logits = got.rows[0].logits;
  ASSERT_EQ(logits.size(), size_t(kTinyVocab));
  std::vector<std::pair<float, int32_t>> order;
  for (int32_t id = 0; id < kTinyVocab; ++id) {
    const bool there = std::ranges::binary_search(tokens, id);
    EXPECT_EQ(logits[size_t(id)], there ? wanted.rows[0].logits[size_t(id)] : -INFINITY) << id;
    if (there) order.emplace_back(-logits[size_t(id)], id);
  }
  std::ranges::sort(order);
  ASSERT_EQ(got.rows[0].top.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(got.rows[0].top[i].first, order[i].second);
  EXPECT_EQ(got.rows[0].at, (std::vector<float>{logits[3], -INFINITY}));
  EXPECT_EQ(got.rows[0].stats.max, -order[0].first);
  EXPECT_EQ(got.rows[0].picked.token, order[0].second);
  EXPECT_EQ(got.rows[0].picked.top[1].token, order[1].second);
  EXPECT_EQ(got.rows[1].picked.token, order[0].second);  // row 0's logits, once
  EXPECT_TRUE(std::ranges::binary_search(tokens, got.rows[2].picked.token));
}

TEST(Draft, SharedNoiseIsWhatMakesDraftsStandAtATemperature) {
  ServedDraft close(tensor::Type::kQ4_0);
  TinyWorld world;
  const Jobs jobs = jobs_of(40, 0.8f, 40);
  const Options base{{"adaptive", "0"}, {"draft_max", "4"}};
  Options without = base;
  without["draft_noise"] = "none";
  const double shared = acceptance(world.run(by(jobs, "draft", base, &close)));
  const double none = acceptance(world.run(by(jobs, "draft", without, &close)));
  RecordProperty("acceptance_shared", std::to_string(shared));
  RecordProperty("acceptance_none", std::to_string(none));
  EXPECT_GT(shared, none + 0.2);
}

TEST(Draft, FirstLayersDraftAndTheTextIsThatOfPlain) {
  for (const float temperature : {0.0f, 0.8f}) {
    TinyWorld world;
    const Jobs jobs = jobs_of(50, temperature, 64);
    const auto plain = speculative::run_plain(world, jobs);
    for (const Options& options :
         {Options{{"adaptive", "0"}, {"draft_max", "3"}, {"exit_layer", "1"}},
          Options{{"adaptive", "0"}, {"draft_max", "2"}, {"branches", "4"}}, Options{}}) {
      const auto got = world.run(by(jobs, "early-exit", options));
      expect_all_same(plain, got, "early exit");
      if (options.contains("adaptive")) EXPECT_GT(speculative::total(got).accepted, 50u);
    }
    EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
  }
}

// Sixteen requests at once, of every method and with every option, on few pages and a draft model
// on few pages, so that Contexts are taken away and come back.
TEST(Draft, ABatchOfMixedMethodsGivesWhatPlainGives) {
  Draws draws(5);
  ServedDraft close(tensor::Type::kQ4_0, "qwen3", 12);
  uint64_t preemptions = 0;
  for (int round = 0; round < 8; ++round) {
    engine::EngineOptions few;
    few.pages = 18;
    TinyWorld world, tight(few);
    Jobs jobs;
    for (int i = 0; i < 16; ++i) {
      jobs.emplace_back(echoing_prompt(uint32_t(1000 + round * 16 + i), 2 + draws.below(60)),
                        speculative::varied_options(draws, draws.below(40)));
      jobs.back().options.n = 1;
    }
    const auto plain = speculative::run_plain(world, jobs);
    for (auto& job : jobs) {
      const char* const methods[] = {"plain", "lookup", "draft", "early-exit"};
      job.options.method = methods[draws.below(4)];
      job.options.draft_model = close.model();
      if (job.options.method == "plain") continue;
      auto& o = job.options.method_options;
      o["adaptive"] = draws.chance(0.3) ? "1" : "0";
      o["draft_max"] = std::to_string(1 + draws.below(6));
      o["branches"] = std::to_string(1 + draws.below(3));
      if (job.options.method == "lookup") continue;
      if (draws.chance(0.3)) o["draft_p_min"] = "0.2";
      if (draws.chance(0.3)) o["draft_noise"] = "none";
      if (draws.chance(0.3)) o["draft_min"] = "1";
    }
    const auto got = tight.run(jobs);
    for (size_t i = 0; i < jobs.size(); ++i) {
      expect_same(plain[i], got[i],
                  "round " + std::to_string(round) + ", " + jobs[i].options.method + " " +
                      std::to_string(i));
    }
    preemptions += tight.engine.statistics().preemptions;
    EXPECT_EQ(tight.engine.pages().free(), tight.engine.pages().total());
  }
  EXPECT_GT(preemptions, 10u);
  close.end();
  EXPECT_EQ(close.engine().pages().free(), close.engine().pages().total());
}

TEST(Draft, CancellingARequestReleasesItsDraft) {
  ServedDraft close(tensor::Type::kQ4_0);
  TinyWorld world;
  Jobs jobs = by(jobs_of(2, 0.8f, 200), "draft", {{"adaptive", "0"}}, &close);
  int pieces = 0;
  jobs[0].sink = [&](const Piece&, engine::Request& request) {
    if (++pieces == 5) world.engine.cancel(request);
  };
  const auto got = world.run(jobs);
  EXPECT_TRUE(got[0].error);
  EXPECT_FALSE(got[1].error);
  EXPECT_EQ(got[1].completions.front().ids.size(), 200u);
  EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
  close.end();
  EXPECT_EQ(close.engine().pages().free(), close.engine().pages().total());
}

// As when an exception ends a command: the draft model's owner goes first, then the target's engine
// with programs that were drafting.
TEST(Draft, OutlivesItsOwnerWhileProgramsOfTheTargetStand) {
  for (const bool guest : {false, true}) {
    auto close = std::make_unique<ServedDraft>(tensor::Type::kQ4_0);
    TinyWorld world;
    std::shared_ptr<engine::Engine> shared = close->shared_engine();
    if (guest) {
      close->end();
      world.engine.host(shared);
    }
    Jobs jobs = by(jobs_of(3, 0.8f, 200), "draft", {{"adaptive", "0"}}, close.get());
    world.engine.on_tick([](const engine::TickReport& report) {
      if (report.tick == 12) throw Error(ErrorKind::kSystem, "the tick failed");
    });
    EXPECT_THROW(world.run(jobs), Error);
    world.engine.on_tick({});
    const std::weak_ptr<engine::Engine> draft = shared;
    shared.reset();
    jobs.clear();
    close.reset();
    EXPECT_FALSE(draft.expired());  // what stands in the target's engine may still draft with it
  }
}

TEST(Draft, RefusesVocabulariesThatDifferAndARequestWithoutADraftModel) {
  ServedDraft close(tensor::Type::kQ4_0);
  TinyWorld world;
  const auto message = [](const auto& act) -> std::string {
    try {
      act();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  text::TokenizerSpec spec;
  spec.name = "other";
  spec.family = "spm";
  spec.kind = text::TokenizerKind::kSentencePieceBpe;
  for (int i = 0; i < kTinyVocab; ++i) {
    const auto& token = world.tokenizer.vocabulary()[i];
    spec.tokens.push_back(token);
    if (i == 50) spec.tokens.back().text = "zz";
  }
  spec.unknown = spec.substitute = 0;
  spec.bos = 1;
  spec.eos = kTinyEos;
  const text::Tokenizer other(text::TokenizerSpec{spec});
  const std::string differs =
      message([&] { speculative::DraftModel(close.shared_engine(), other, world.tokenizer); });
  EXPECT_NE(differs.find("token 50"), std::string::npos) << differs;
  EXPECT_NE(differs.find("'zz'"), std::string::npos) << differs;
  text::Tokenizer ends = tiny_tokenizer();
  ends.add_end_id(77);
  const std::string end =
      message([&] { speculative::DraftModel(close.shared_engine(), ends, world.tokenizer); });
  EXPECT_NE(end.find("77"), std::string::npos) << end;
  const std::string none = message([&] {
    GenerationOptions o;
    o.method = "draft";
    world.run(tiny_prompt(1, 4), o);
  });
  EXPECT_NE(none.find("--draft-model"), std::string::npos) << none;
}

}  // namespace
}  // namespace tutti::decode
