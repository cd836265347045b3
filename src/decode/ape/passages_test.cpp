#include "decode/ape/passages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "decode/ape/context_store.h"
#include "decode/tiny_text.h"
#include "engine/dense_oracle.h"
#include "engine/test_programs.h"
#include "formats/temporary_folder.h"

namespace tutti::decode {
namespace {

using engine::DenseOracle;
using engine::Engine;
using engine::Rows;
using engine::Segment;
using engine::TinyModel;

constexpr int kAt = 7;  // tokens of the prefix

// A prompt of 7 + 9 tokens and passages of unequal lengths behind its prefix.
std::vector<int32_t> prompt() { return engine::random_tokens(1, kAt + 9); }
Passages passages(std::vector<int> lengths, float temperature = 0.8f, float scale = 0.7f) {
  Passages p;
  for (size_t i = 0; i < lengths.size(); ++i)
    p.tokens.push_back(engine::random_tokens(10 + uint32_t(i), lengths[i]));
  p.at = kAt;
  p.temperature = temperature;
  p.scale = scale;
  return p;
}

// Logits of the prompt's tokens behind the passages.
Task<std::vector<std::vector<float>>> query_logits(Engine& engine,
                                                   std::shared_ptr<engine::Request> request,
                                                   const Passages& p) {
  engine::Context context = co_await read_passages(engine, request, prompt(), p);
  const std::vector<int32_t> all = prompt();
  const auto rest = std::span(all).subspan(size_t(prompt_tokens_held(p)));
  EXPECT_EQ(context.next_position(), positions_before(p));
  Rows rows = Rows::append(rest, context.next_position(), engine::want_logits());
  for (auto& row : rows.rows) row.want = engine::want_logits();
  const engine::Answer answer = co_await engine.forward(context, std::move(rows));
  std::vector<std::vector<float>> logits;
  for (const auto& row : answer.rows) logits.push_back(row.logits);
  co_return logits;
}

std::vector<std::vector<float>> query_logits(Engine& engine, const Passages& p) {
  std::vector<std::vector<float>> logits;
  engine::run_programs(engine, {[&](std::shared_ptr<engine::Request> request) -> Task<void> {
                         logits = co_await query_logits(engine, request, p);
                       }});
  return logits;
}

class Ape : public testing::TestWithParam<int> {
 protected:
  Ape()
      : tiny_(
            engine::tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1, GetParam())) {}

  static engine::EngineOptions options(bool cache = false) {
    engine::EngineOptions o = engine::small_engine(512, cache);
    o.kv = tensor::KvType::kF32;
    return o;
  }

  // The three-term formula in double: slots and Views written out, no Contexts.
  std::vector<std::vector<double>> dense(const Passages& p) const {
    const DenseOracle oracle(tiny_.model->checkpoint());
    const bool pcw = p.mode == PassageMode::kPcw;
    const std::vector<int32_t> all = prompt();
    const int at = pcw ? 0 : p.at;
    DenseOracle::Slots prefix, made;
    if (at > 0)
      oracle.forward({}, {}, Rows::append(std::span(all).first(size_t(at)), 0, std::nullopt),
                     prefix);
    DenseOracle::Slots slots = prefix;
    int longest = 0;
    for (auto tokens : p.tokens) {
      if (pcw) tokens.insert(tokens.begin(), all.front());
      made.clear();
      oracle.forward(prefix, {}, Rows::append(tokens, at, std::nullopt), made);
      slots.insert(slots.end(), made.begin(), made.end());
      longest = std::max(longest, int(tokens.size()));
    }
    const auto rest = std::span(all).subspan(size_t(at));
    Rows rows = Rows::append(rest, at + longest, engine::want_logits());
    if (!pcw) rows.classes = {{}, {1.0f / p.temperature, p.scale * p.temperature}};
    const auto view = rows.add_view(
        {Segment::slots(0, at), Segment::slots(at, -1, pcw ? 0 : 1), Segment::fresh(0, -1, true)});
    for (auto& row : rows.rows) row.view = view;
    made.clear();
    std::vector<std::vector<double>> logits;
    for (auto& result : oracle.forward(slots, {}, rows, made))
      logits.push_back(std::move(result.logits));
    return logits;
  }

  TinyModel tiny_;
};

double worst(const std::vector<std::vector<float>>& got,
             const std::vector<std::vector<double>>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  double difference = 0, largest = 0;
  for (size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    for (size_t j = 0; j < expected[i].size(); ++j) {
      difference = std::max(difference, std::fabs(double(got[i][j]) - expected[i][j]));
      largest = std::max(largest, std::fabs(expected[i][j]));
    }
  }
  return difference / largest;
}

TEST_P(Ape, EqualsTheThreeTermFormulaInDouble) {
  Engine engine(tiny_.model, tiny_.pool, options());
  for (const auto& lengths : {std::vector<int>{20}, {31, 5, 40, 33}}) {
    for (const auto& [temperature, scale] :
         {std::pair(1.0f, 1.0f), {0.8f, 0.7f}, {0.2f, 1.0f}, {1.0f, 0.3f}}) {
      const Passages p = passages(lengths, temperature, scale);
      EXPECT_LE(worst(query_logits(engine, p), dense(p)), 1e-5) << temperature << " " << scale;
    }
    Passages p = passages(lengths);
    p.mode = PassageMode::kPcw;
    EXPECT_LE(worst(query_logits(engine, p), dense(p)), 1e-5);
  }
}

// One passage at temperature and scale 1 is the sequential prompt, bit for bit.
TEST_P(Ape, OnePassageWithoutWeightsIsTheSequentialPrompt) {
  Engine engine(tiny_.model, tiny_.pool, options());
  const Passages p = passages({37}, 1, 1);
  const auto apart = query_logits(engine, p);
  std::vector<std::vector<float>> sequential;
  engine::run_programs(engine, {[&](std::shared_ptr<engine::Request> request) -> Task<void> {
                         const auto tokens = sequential_prompt(prompt(), p);
                         EXPECT_EQ(tokens.size(), 37 + prompt().size());
                         engine::Context context(engine, request);
                         Rows rows = Rows::append(tokens, 0, std::nullopt);
                         for (size_t i = tokens.size() - apart.size(); i < tokens.size(); ++i) {
                           rows.rows[i].want = engine::want_logits();
                         }
                         const engine::Answer answer =
                             co_await engine.forward(context, std::move(rows));
                         for (size_t i = tokens.size() - apart.size(); i < tokens.size(); ++i) {
                           sequential.push_back(answer.rows[i].logits);
                         }
                       }});
  EXPECT_EQ(apart, sequential);
}

// Another order of passages changes sums' order and nothing else.
TEST_P(Ape, TheOrderOfPassagesDoesNotMatter) {
  Engine engine(tiny_.model, tiny_.pool, options());
  Passages p = passages({31, 5, 40});
  const auto one = query_logits(engine, p);
  std::swap(p.tokens[0], p.tokens[2]);
  std::vector<std::vector<double>> other;
  for (const auto& row : query_logits(engine, p)) other.emplace_back(row.begin(), row.end());
  EXPECT_LE(worst(one, other), 1e-5);
  p.tokens[1][2] ^= 1;
  EXPECT_GT(worst(query_logits(engine, p), other), 1e-3);
}

// Whatever tier a passage comes from, the bits are those of computing it.
TEST_P(Ape, StoredPassagesGiveTheSameBits) {
  const formats::TemporaryFolder folder;
  ContextStore::Options store_options;
  store_options.folder.emplace(folder / "contexts");
  store_options.model = "tiny";
  Passages p = passages({31, 5, 40, 5});
  p.tokens[3] = p.tokens[1];  // twice the same
  Engine plain(tiny_.model, tiny_.pool, options());
  const auto expected = query_logits(plain, p);
  {
    Engine engine(tiny_.model, tiny_.pool, options());
    p.store = std::make_shared<ContextStore>(engine, store_options);
    EXPECT_EQ(query_logits(engine, p), expected);
    EXPECT_EQ(p.store->statistics().memory_hits, 0u);
    EXPECT_EQ(query_logits(engine, p), expected);
    EXPECT_EQ(p.store->statistics().memory_hits, 4u);
    EXPECT_EQ(store_options.folder->list().size(), 3u);
    p.store = nullptr;
  }
  Engine engine(tiny_.model, tiny_.pool, options());
  p.store = std::make_shared<ContextStore>(engine, store_options);
  const uint64_t rows = engine.statistics().rows;
  EXPECT_EQ(query_logits(engine, p), expected);
  EXPECT_EQ(p.store->statistics().disk_hits + p.store->statistics().memory_hits, 4u);
  EXPECT_EQ(p.store->statistics().misses, 0u);
  EXPECT_EQ(engine.statistics().rows - rows, prompt().size());  // prefix and query, no passage

  // One token of the prefix changed: every passage is another.
  std::vector<int32_t> changed = prompt();
  changed[2] ^= 1;
  for (const auto& tokens : p.tokens) {
    EXPECT_FALSE(p.store->find(std::span(changed).first(kAt), tokens, 0));
    EXPECT_FALSE(p.store->find(std::span(changed).first(kAt - 1), tokens, 0));
    EXPECT_FALSE(p.store->find(std::span(changed).first(0), tokens, 0));
  }
  p.store = nullptr;
}

TEST_P(Ape, ADamagedFileIsRemovedAndComputedAgain) {
  const formats::TemporaryFolder folder;
  std::vector<std::string> notes;
  ContextStore::Options store_options;
  store_options.folder.emplace(folder.path());
  store_options.note = [&](const std::string& text) { notes.push_back(text); };
  Passages p = passages({31, 40});
  std::vector<std::vector<float>> expected;
  {
    Engine engine(tiny_.model, tiny_.pool, options());
    p.store = std::make_shared<ContextStore>(engine, store_options);
    expected = query_logits(engine, p);
    p.store = nullptr;
  }
  int files = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder.path())) {
    if (file.path().extension() != ".ctx") continue;
    if (files++ == 0) {
      std::filesystem::resize_file(file.path(), std::filesystem::file_size(file.path()) / 2);
    } else {
      std::fstream f(file.path(), std::ios::in | std::ios::out | std::ios::binary);
      f.seekg(-100, std::ios::end);
      const char c = char(f.get() ^ 1);
      f.seekp(-100, std::ios::end);
      f.put(c);
    }
  }
  ASSERT_EQ(files, 2);
  Engine engine(tiny_.model, tiny_.pool, options());
  p.store = std::make_shared<ContextStore>(engine, store_options);
  EXPECT_EQ(query_logits(engine, p), expected);
  EXPECT_EQ(p.store->statistics().misses, 2u);
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_NE(notes[0].find("computed again"), std::string::npos);
  EXPECT_EQ(store_options.folder->list().size(), 2u);  // and stored again
  p.store = nullptr;
}

TEST_P(Ape, TheFolderKeepsToItsBudget) {
  const formats::TemporaryFolder folder;
  Engine engine(tiny_.model, tiny_.pool, options());
  const auto store_in = [&](uint64_t budget) {
    ContextStore::Options o;
    o.folder.emplace(folder.path(), budget);
    return std::make_shared<ContextStore>(engine, o);
  };
  Passages p = passages({40});
  p.store = store_in(0);
  query_logits(engine, p);
  ContextFolder all(folder.path());
  const uint64_t bytes = all.list().front().bytes;
  for (uint32_t i = 0; i < 4; ++i) {
    p.tokens = {engine::random_tokens(50 + i, 40)};
    p.store = store_in(3 * bytes);
    query_logits(engine, p);
  }
  const auto left = all.list();
  ASSERT_EQ(left.size(), 3u);
  EXPECT_EQ(left.front().tokens, p.tokens.front());
  EXPECT_EQ(all.get(left[1].id.substr(0, 8)).id, left[1].id);
  all.set_name(left[1], "one of them");
  EXPECT_EQ(all.get("one of them").tokens, left[1].tokens);
  all.remove(all.get("one of them"));
  EXPECT_THROW(all.get(left[1].id), Error);
  EXPECT_EQ(all.list().size(), 2u);
  p.store = nullptr;
}

// With pages for a fraction of what is asked for, requests take turns and get the bits of an ample
// pool.
TEST_P(Ape, ScarcePagesChangeNothing) {
  const auto run = [&](int pages) {
    engine::EngineOptions o = options();
    o.pages = pages;
    Engine engine(tiny_.model, tiny_.pool, o);
    std::vector<std::vector<std::vector<float>>> logits(6);
    std::vector<engine::TestProgram> programs;
    for (size_t i = 0; i < logits.size(); ++i) {
      programs.push_back([&, i](std::shared_ptr<engine::Request> request) -> Task<void> {
        Passages p = passages({40, 35, 40});
        p.tokens[0] = engine::random_tokens(90 + uint32_t(i), 40);
        logits[i] = co_await query_logits(engine, request, p);
      });
    }
    engine::run_programs(engine, programs);
    EXPECT_EQ(engine.pages().free(), engine.pages().total());
    return std::pair(logits, engine.statistics().preemptions);
  };
  const auto [ample, none] = run(512);
  const auto [scarce, some] = run(16);
  EXPECT_EQ(none, 0u);
  EXPECT_GT(some, 0u);
  EXPECT_EQ(scarce, ample);
}

INSTANTIATE_TEST_SUITE_P(Windows, Ape, testing::Values(0, 24));

// ---- in a request

TEST(Passages, TextIsTheSameForOneAndManySamplesAndBesideOthers) {
  TinyWorld world;
  GenerationOptions options;
  options.max_tokens = 12;
  options.ignore_eos = true;
  options.passages.tokens = {tiny_prompt(5, 40), tiny_prompt(6, 20)};
  options.passages.at = 4;
  const std::vector<int32_t> prompt = tiny_prompt(4, 10);
  const auto alone = world.run(prompt, options).completions[0].ids;
  options.n = 3;
  for (const auto& completion : world.run(prompt, options).completions)
    EXPECT_EQ(completion.ids, alone);
  options.n = 1;
  std::vector<TinyWorld::Job> jobs(4, {prompt, options});
  jobs[1].options.passages.tokens.clear();
  for (size_t i : {0, 2, 3}) EXPECT_EQ(world.run(jobs)[i].completions[0].ids, alone);
  // Passages matter, and so does how they are seen.
  options.passages.temperature = 0.1f;
  const auto sharp = world.run(prompt, options).completions[0].ids;
  options.passages.tokens.clear();
  const auto without = world.run(prompt, options).completions[0].ids;
  EXPECT_NE(without, alone);
  EXPECT_NE(sharp, alone);
}

TEST(Passages, SequentialModeIsThePromptWithThemInIt) {
  TinyWorld world;
  GenerationOptions options;
  options.max_tokens = 8;
  options.ignore_eos = true;
  options.passages.mode = PassageMode::kSequential;
  options.passages.tokens = {tiny_prompt(5, 40), tiny_prompt(6, 20)};
  options.passages.at = 4;
  const std::vector<int32_t> prompt = tiny_prompt(4, 10);
  std::vector<int32_t> whole(prompt.begin(), prompt.begin() + 4);
  for (const auto& tokens : options.passages.tokens)
    whole.insert(whole.end(), tokens.begin(), tokens.end());
  whole.insert(whole.end(), prompt.begin() + 4, prompt.end());
  const auto got = world.run(prompt, options).completions[0].ids;
  options.passages.tokens.clear();
  EXPECT_EQ(world.run(whole, options).completions[0].ids, got);
}

TEST(Passages, BeamSearchGoesWithThem) {
  TinyWorld world;
  GenerationOptions options;
  options.max_tokens = 6;
  options.ignore_eos = true;
  options.passages.tokens = {tiny_prompt(5, 40), tiny_prompt(6, 20)};
  options.passages.at = 4;
  const std::vector<int32_t> prompt = tiny_prompt(4, 10);
  const auto greedy = world.run(prompt, options).completions[0].ids;
  options.method = "beam";
  options.method_options["width"] = "1";
  EXPECT_EQ(world.run(prompt, options).completions[0].ids, greedy);
}

TEST(Passages, WhatMakesNoSenseIsRefused) {
  TinyWorld world;
  const std::vector<int32_t> prompt = tiny_prompt(4, 10);
  const auto refused = [&](auto change) {
    GenerationOptions options;
    options.max_tokens = 2;
    options.passages.tokens = {tiny_prompt(5, 40)};
    options.passages.at = 4;
    change(options);
    EXPECT_THROW(world.run(prompt, options), Error);
  };
  refused([](auto& o) { o.passages.tokens.push_back({}); });
  refused([](auto& o) { o.passages.at = 10; });
  refused([](auto& o) { o.passages.at = -1; });
  refused([](auto& o) { o.passages.temperature = 0; });
  refused([](auto& o) { o.passages.scale = NAN; });
  refused([](auto& o) { o.passages.tokens[0][3] = 96; });
  refused([](auto& o) { o.passages.tokens[0][3] = -1; });
  refused([](auto& o) { o.prompt_cache = "x"; });
  refused([](auto& o) { o.context_tokens = 45; });  // 4 + 40 positions, and 6 tokens
}

// Many passages may be longer than the window together; each must fit.
TEST(Passages, TogetherTheyMayExceedTheWindow) {
  TinyWorld world;
  GenerationOptions options;
  options.max_tokens = 5;
  options.ignore_eos = true;
  options.context_tokens = 64;
  options.passages.at = 4;
  for (uint32_t i = 0; i < 5; ++i) options.passages.tokens.push_back(tiny_prompt(20 + i, 40));
  EXPECT_EQ(world.run(tiny_prompt(4, 10), options).completions[0].ids.size(), 5u);
}

}  // namespace
}  // namespace tutti::decode
