// Random programs over everything that a query can say, against a dense oracle in double, and
// against themselves with
// == on bits: beside others, on more threads, at other instruction sets, from cached pages, and
// with their pages taken away and recomputed.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <set>
#include <string>

#include "base/draws.h"
#include "base/error.h"
#include "engine/dense_oracle.h"
#include "engine/engine.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"

namespace tutti::engine {
namespace {

constexpr int kVocab = 96;

// Token p of document d. Programs read the same few documents, so that they find each other's pages
// in the cache.
int32_t word_of(int document, int p) {
  DrawKey key;
  key.purpose = Purpose::kTest;
  key.path = uint32_t(document);
  return int32_t(draw_word(key, uint32_t(p)) % kVocab);
}

struct Kind {
  // Only what can be recomputed from recipes: no overwriting, no dropped or unwritten rows that
  // others saw, no model prefixes, no rows from rows.
  bool reproducible = false;
  int steps = 30;
};

// What the engine got right beyond numbers, so that a test can see that it tested something.
struct Tally {
  int rows = 0, compared = 0;
  double worst = 0;  // relative to the largest number of its row
};

// A program: some Contexts and random steps. What it does depends on its seed alone, never on
// answers.
class Program {
 public:
  Program(Engine& engine, uint64_t seed, Kind kind, std::vector<int> prefixes)
      : engine_(engine),
        c_(engine.model().config()),
        draws_(seed),
        kind_(kind),
        prefixes_(std::move(prefixes)) {
    std::vector<float> weight(size_t(c_.hidden * c_.hidden)), bias(size_t(c_.hidden));
    for (float& x : weight) x = draws_.uniform(-0.2f, 0.2f);
    for (float& x : bias) x = draws_.uniform(-0.2f, 0.2f);
    maps_ = {nullptr, models::LinearMap::make(c_.hidden, weight, {}),
             models::LinearMap::make(c_.hidden, weight, bias)};
  }

  // Compares every answer with `oracle` from now on.
  void check_with(const DenseOracle& oracle, const std::vector<DenseOracle::Slots>& prefixes,
                  Tally& tally) {
    oracle_ = &oracle;
    prefix_slots_ = &prefixes;
    tally_ = &tally;
  }

  // All numbers that it got, in order.
  const std::vector<float>& record() const { return record_; }

  Task<void> run(std::shared_ptr<Request> request) {
    for (int step = 0; step < kind_.steps; ++step) {
      if (threads_.empty() || (threads_.size() < 4 && draws_.chance(0.1))) {
        threads_.push_back({Context(engine_, request), {}, draws_.below(3)});
        if (draws_.chance(0.6)) co_await append(threads_.size() - 1, 33 + draws_.below(50));
      }
      const size_t at = size_t(draws_.below(int(threads_.size())));
      const int dice = draws_.below(100);
      if (dice < 25) {
        co_await append(at, 1 + draws_.below(12));
      } else if (dice < 65) {
        co_await query(at);
      } else if (dice < 75) {
        if (threads_.size() < 5) {
          const Thread& t = threads_[at];
          threads_.push_back({t.context.fork(), t.slots, t.document});
        }
      } else if (dice < 90) {
        co_await edit(at);
      } else if (dice < 95) {
        if (threads_[at].context.state().reproducible) threads_[at].context.release();
      } else {
        threads_.erase(threads_.begin() + std::ptrdiff_t(at));
      }
    }
    threads_.clear();
  }

 private:
  struct Thread {
    Context context;
    DenseOracle::Slots slots;
    int document;
  };

  // The next n tokens of the document.
  Task<void> append(size_t at, int n) {
    Thread& t = threads_[at];
    if (t.context.size() + n > 130) co_return;
    std::vector<int32_t> tokens;
    const int position = t.context.next_position();
    for (int i = 0; i < n; ++i) tokens.push_back(word_of(t.document, position + i));
    Rows rows = Rows::append(tokens, position, want_logits());
    if (draws_.chance(0.1)) rows.classes = {{draws_.uniform(0.5f, 2), draws_.uniform(0.5f, 1.5f)}};
    std::vector<size_t> threads{at};
    std::vector<Rows> parts;
    parts.push_back(std::move(rows));
    co_await ask(threads, parts);
  }

  // Slots go. Each call is what a method may do right after an answer; elsewhere pages must be
  // brought back before.
  Task<void> edit(size_t at) {
    Thread& t = threads_[at];
    if (kind_.reproducible && t.context.state().looks_ahead) co_return;  // could tear a block
    const int size = t.context.size(), what = kind_.reproducible ? 0 : draws_.below(4);
    if (!kind_.reproducible) co_await engine_.restore(t.context);
    if (what == 0) {
      const int n = draws_.below(size + 1);
      t.context.truncate(n);
      t.slots.resize(size_t(n));
    } else if (what == 1) {
      const int base = std::max(0, size - 1 - draws_.below(40));
      std::vector<int> kept;
      for (int i = base; i < size; ++i) {
        if (draws_.chance(0.6)) kept.push_back(i - base);
      }
      keep(t, base, kept);
    } else if (what == 2) {
      // Now and then whole pages, so that what remains stands on page borders.
      const int first =
          draws_.chance(0.5) ? draws_.below(size + 1) : std::min(size, 32 * draws_.below(3));
      const int count =
          draws_.chance(0.5) ? draws_.below(size - first + 1) : std::min(size - first, 32);
      t.context.drop(first, count);
      t.slots.erase(t.slots.begin() + first, t.slots.begin() + first + count);
    } else if (size > 0 && size < 60 && threads_.size() < 5) {
      // Two branches below one stem, joined: the stem's keys once, then each branch's.
      const int stem = draws_.below(size + 1);
      Context branch = t.context.fork();
      branch.truncate(stem);
      threads_.push_back(
          {std::move(branch), {t.slots.begin(), t.slots.begin() + stem}, draws_.below(3)});
      const size_t other = threads_.size() - 1;
      co_await append(other, 1 + draws_.below(20));
      co_await engine_.restore(threads_[at].context);
      Thread& joined = threads_[at];
      const Thread& from = threads_[other];
      joined.context.concat(from.context, stem);
      joined.slots.insert(joined.slots.end(), from.slots.begin() + stem, from.slots.end());
    }
  }

  void keep(Thread& t, int base, const std::vector<int>& kept) {
    t.context.keep(base, kept);
    DenseOracle::Slots slots(t.slots.begin(), t.slots.begin() + base);
    for (const int k : kept) slots.push_back(t.slots[size_t(base + k)]);
    t.slots = std::move(slots);
  }

  RowInput some_input(const std::vector<Row>& before, LayerRange& range) {
    RowInput in;
    const int kind = draws_.below(100);
    if (kind < 15 && !before.empty() && !kind_.reproducible) {
      in.kind = RowInput::kFromRow;
      in.row = draws_.below(int(before.size()));
      in.map = maps_[size_t(draws_.below(3))];
      range.enter = std::max(range.enter, before[size_t(in.row)].active.enter);
    } else if (kind < 30) {
      in.kind = RowInput::kVector;
      for (int i = 0; i < c_.hidden; ++i) in.vector.push_back(draws_.uniform(-1, 1));
    } else if (kind < 45) {
      in.kind = RowInput::kMix;
      for (int n = 1 + draws_.below(3); n > 0; --n) {
        in.ids.push_back(draws_.below(kVocab));
        in.weights.push_back(draws_.uniform(0.1f, 1));
      }
    } else {
      in.token = draws_.below(kVocab);
    }
    return in;
  }

  // Rows of one part. `path` becomes rows that may be kept afterwards, if the shape has such.
  Rows some_rows(const Thread& t, std::vector<int>& path) {
    enum Shape { kChain, kTree, kBlock, kAnyOrder, kScattered, kShapes };
    const Shape shape = Shape(draws_.below(kShapes));
    const int size = t.context.size(), count = 1 + draws_.below(7),
              next = t.context.next_position();
    const bool classes = draws_.chance(0.4);
    // Rows that stay and rows that do not may see each other only where nothing must be recomputed.
    const bool all_written = kind_.reproducible && draws_.chance(0.7);
    Rows rows;
    if (classes) {
      rows.classes.resize(size_t(1 + draws_.below(4)));
      for (auto& c : rows.classes) c = {draws_.uniform(0.5f, 2), draws_.uniform(0.5f, 1.5f)};
    }
    const auto some_class = [&] {
      return uint8_t(classes ? draws_.below(tensor::kMaxSoftmaxClasses) : 0);
    };
    std::vector<int> parent, rank(static_cast<size_t>(count)), depth;
    std::iota(rank.begin(), rank.end(), 0);
    draws_.shuffle(rank);
    for (int i = 0; i < count; ++i) {
      parent.push_back(draws_.below(i + 1) - 1);
      depth.push_back(parent.back() < 0 ? 0 : depth[size_t(parent.back())] + 1);
      Row row;
      if (draws_.chance(0.25)) {
        row.active.enter = draws_.below(c_.layers + 1);
        if (draws_.chance(0.5)) row.active.leave = row.active.enter + draws_.below(c_.layers + 1);
      }
      row.in = some_input(rows.rows, row.active);
      row.position = next + (shape == kTree       ? depth.back()
                             : shape == kAnyOrder ? rank[size_t(i)]
                                                  : i);
      if (draws_.chance(0.05)) row.position = draws_.below(next + 1);
      View view;
      std::vector<Segment> old{Segment::slots(0, -1, some_class())}, fresh;
      switch (shape) {
        case kChain:
          break;
        case kTree:
          for (int up = parent.back(); up >= 0; up = parent[size_t(up)]) {
            fresh.insert(fresh.begin(), Segment::fresh(up, 1, false, some_class()));
          }
          break;
        case kBlock:
          fresh = {Segment::fresh(0, -1, draws_.chance(0.2), some_class())};
          break;
        case kAnyOrder:
          row.sees_self = draws_.chance(0.5);
          for (int j = 0; j < count; ++j) {
            if (rank[size_t(j)] < rank[size_t(i)])
              fresh.push_back(Segment::fresh(j, 1, false, some_class()));
          }
          break;
        default:
          old.clear();
          for (int n = draws_.below(4); n > 0; --n) {
            const int first = draws_.below(size + 1);
            old.push_back(Segment::slots(
                first, draws_.chance(0.3) ? -1 : draws_.below(size - first + 1), some_class()));
          }
          for (int n = draws_.below(3); n > 0; --n) {
            const int first = draws_.below(count);
            fresh.push_back(Segment::fresh(first, draws_.chance(0.3) ? -1 : 1 + draws_.below(3),
                                           draws_.chance(0.5), some_class()));
          }
          row.sees_self = draws_.chance(0.8);
      }
      if (shape != kChain) {
        view = old;
        view.insert(view.end(), fresh.begin(), fresh.end());
        if (!kind_.reproducible && draws_.chance(0.15)) {
          view.push_back(Segment::prefix(draws_.below(int(prefixes_.size())), some_class()));
          view.back().first = prefixes_[size_t(view.back().first)];
        }
        if (shape == kScattered) draws_.shuffle(view);
        row.view = rows.add_view(view);
      } else if (draws_.chance(0.1)) {
        row.sees_self = false;
      }
      if (kind_.reproducible) {
        row.write = all_written && size < 100 ? Write::append() : Write::none();
      } else if (size > 0 && draws_.chance(0.15)) {
        row.write = Write::at(draws_.below(size));
      } else {
        row.write = draws_.chance(0.7) && size < 100 ? Write::append() : Write::none();
      }
      if (draws_.chance(0.7)) {
        row.want = draws_.chance(0.8) ? want_logits() : Want();
        if (draws_.chance(0.3)) row.want->at = {draws_.below(kVocab), draws_.below(kVocab)};
        const int from = row.in.kind == RowInput::kFromRow ? row.active.enter : 0;
        if (draws_.chance(0.3))
          row.want->hidden = {from + draws_.below(c_.layers + 1 - from), c_.layers};
      }
      rows.rows.push_back(std::move(row));
    }
    path.clear();
    const bool appended = std::all_of(rows.rows.begin(), rows.rows.end(), [](const Row& row) {
      return row.write.to == Write::kAppend;
    });
    if (shape == kTree && appended) {
      for (int up = draws_.below(count); up >= 0; up = parent[size_t(up)])
        path.insert(path.begin(), up);
    }
    return rows;
  }

  Task<void> query(size_t at) {
    std::vector<size_t> threads{at};
    for (size_t other = 0; other < threads_.size(); ++other) {
      if (other != at && draws_.chance(0.2)) threads.push_back(other);
    }
    std::vector<Rows> parts;
    std::vector<std::vector<int>> paths(threads.size());
    std::vector<std::pair<int, int>> wanted;
    for (size_t p = 0; p < threads.size(); ++p) {
      parts.push_back(some_rows(threads_[threads[p]], paths[p]));
      for (size_t r = 0; r < parts[p].rows.size(); ++r) {
        const auto& want = parts[p].rows[r].want;
        if (want && want->needs_head()) wanted.emplace_back(int(p), int(r));
      }
    }
    if (!wanted.empty() && draws_.chance(0.3)) {  // guidance, over all parts
      const auto [part, row] = wanted[size_t(draws_.below(int(wanted.size())))];
      for (int n = 1 + draws_.below(3); n > 0; --n) {
        const auto [from_part, from_row] = wanted[size_t(draws_.below(int(wanted.size())))];
        parts[size_t(part)].rows[size_t(row)].want->mix.push_back(
            {from_part, from_row, draws_.uniform(-1, 2)});
      }
    }
    std::vector<int> bases;
    for (const size_t t : threads) bases.push_back(threads_[t].context.size());
    co_await ask(threads, parts);
    for (size_t p = 0; p < threads.size(); ++p) {
      if (!paths[p].empty() && draws_.chance(0.7)) keep(threads_[threads[p]], bases[p], paths[p]);
    }
  }

  Task<void> ask(const std::vector<size_t>& threads, const std::vector<Rows>& rows) {
    std::vector<Part> parts;
    for (size_t p = 0; p < threads.size(); ++p)
      parts.emplace_back(threads_[threads[p]].context, rows[p]);
    const std::vector<Answer> answers = co_await engine_.forward(std::move(parts));
    for (const Answer& answer : answers) {
      for (const RowAnswer& row : answer.rows) {
        record_.insert(record_.end(), row.logits.begin(), row.logits.end());
        record_.insert(record_.end(), row.at.begin(), row.at.end());
        for (const auto& h : row.hidden) record_.insert(record_.end(), h.begin(), h.end());
      }
    }
    if (oracle_) compare(threads, rows, answers);
    // Without an oracle the slots are only counted.
    for (const size_t t : threads) threads_[t].slots.resize(size_t(threads_[t].context.size()));
  }

  void compare(const std::vector<size_t>& threads, const std::vector<Rows>& rows,
               const std::vector<Answer>& answers) {
    std::vector<std::vector<DenseOracle::RowResult>> results;
    for (size_t p = 0; p < threads.size(); ++p) {
      DenseOracle::Slots& slots = threads_[threads[p]].slots;
      DenseOracle::Slots made;
      results.push_back(oracle_->forward(slots, *prefix_slots_, rows[p], made));
      for (size_t r = 0; r < made.size(); ++r) {
        if (rows[p].rows[r].write.to == Write::kAppend) slots.push_back(made[r]);
      }
      for (size_t r = 0; r < made.size(); ++r) {
        if (rows[p].rows[r].write.to == Write::kSlot)
          slots[size_t(rows[p].rows[r].write.slot)] = made[r];
      }
      EXPECT_EQ(int(slots.size()), threads_[threads[p]].context.size());
      tally_->rows += int(made.size());
    }
    for (size_t p = 0; p < threads.size(); ++p) {
      for (size_t r = 0; r < rows[p].rows.size(); ++r) {
        const auto& want = rows[p].rows[r].want;
        if (!want) continue;
        DenseOracle::Numbers logits = results[p][r].logits;
        if (!want->mix.empty()) std::fill(logits.begin(), logits.end(), 0.0);
        double scale = 0;  // of what was mixed: terms may cancel
        for (const double x : results[p][r].logits) scale = std::max(scale, std::abs(x));
        for (const auto& term : want->mix) {
          const auto& mixed = results[size_t(term.part)][size_t(term.row)].logits;
          for (size_t i = 0; i < logits.size(); ++i) logits[i] += double(term.weight) * mixed[i];
        }
        const RowAnswer& answer = answers[p].rows[r];
        if (want->logits) near(answer.logits, logits, scale);
        EXPECT_EQ(answer.at.size(), want->at.size());
        for (size_t i = 0; i < answer.at.size(); ++i)
          near({answer.at[i]}, {logits[size_t(want->at[i])]}, scale);
        EXPECT_EQ(answer.hidden.size(), want->hidden.size());
        for (size_t i = 0; i < answer.hidden.size(); ++i) {
          near(answer.hidden[i], results[p][r].states[size_t(want->hidden[i])], 0);
        }
      }
    }
  }

  void near(const std::vector<float>& got, const DenseOracle::Numbers& expected, double scale) {
    ASSERT_EQ(got.size(), expected.size());
    for (const double x : expected) scale = std::max(scale, std::abs(x));
    for (size_t i = 0; i < got.size(); ++i) {
      tally_->worst = std::max(tally_->worst, std::abs(double(got[i]) - expected[i]) / scale);
    }
    ++tally_->compared;
  }

  Engine& engine_;
  const models::Config& c_;
  Draws draws_;
  Kind kind_;
  std::vector<int> prefixes_;
  std::vector<std::shared_ptr<const models::LinearMap>> maps_;
  std::vector<Thread> threads_;
  std::vector<float> record_;
  const DenseOracle* oracle_ = nullptr;
  const std::vector<DenseOracle::Slots>* prefix_slots_ = nullptr;
  Tally* tally_ = nullptr;
};

// Two model prefixes, and their slots when an oracle is given.
std::vector<int> add_prefixes(Engine& engine, const DenseOracle* oracle = nullptr,
                              std::vector<DenseOracle::Slots>* slots = nullptr) {
  std::vector<int> prefixes;
  for (const int n : {3, 40}) {
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(engine, request);
                   std::vector<int32_t> tokens;
                   for (int i = 0; i < n; ++i) tokens.push_back(word_of(100 + n, i));
                   Rows rows = Rows::append(tokens, 0, std::nullopt);
                   if (oracle) {
                     DenseOracle::Slots made;
                     oracle->forward({}, {}, rows, made);
                     slots->push_back(made);
                   }
                   co_await engine.forward(context, std::move(rows));
                   prefixes.push_back(engine.add_prefix(std::move(context)));
                 }});
  }
  return prefixes;
}

EngineOptions options(tensor::KvType kv, int pages = 1024, bool cache = false) {
  EngineOptions o;
  o.kv = kv;
  o.pages = pages;
  o.prefix_cache = cache;
  o.program_seconds = 1;  // programs run side by side on the slowest machine, too
  return o;
}

// Weights and keys are fp32, the oracle is double: what remains is the rounding of chains of some
// hundred fused multiply-adds, about 1e-6 of a row's largest number in each of some ten operations,
// through keys and values that earlier forwards rounded. A row that sees one slot too many or too
// few is off by 1e-2 and more.
constexpr double kNear = 1e-4;

TEST(Views, RandomProgramsEqualADenseOracle) {
  for (const int window : {0, 10}) {
    const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1, window);
    const DenseOracle oracle(tiny.model->checkpoint());
    Tally tally;
    for (const bool cache : {false, true}) {
      Engine engine(tiny.model, tiny.pool, options(tensor::KvType::kF32, 1024, cache));
      std::vector<DenseOracle::Slots> prefix_slots;
      const std::vector<int> prefixes = add_prefixes(engine, &oracle, &prefix_slots);
      const int prefix_pages = engine.pages().referenced();
      for (uint64_t seed = 0; seed < 16; ++seed) {
        Kind kind;
        kind.reproducible = seed % 4 == 3;
        Program program(engine, 1000 + seed, kind, prefixes);
        program.check_with(oracle, prefix_slots, tally);
        run_programs(engine,
                     {[&](std::shared_ptr<Request> request) { return program.run(request); }});
        ASSERT_LE(tally.worst, kNear)
            << "window " << window << ", cache " << cache << ", seed " << seed;
      }
      if (cache) {
        EXPECT_GT(engine.statistics().cached_rows, 100u);
      }
      engine.prefix_cache().clear();
      EXPECT_EQ(engine.pages().referenced() - prefix_pages, 0);
    }
    EXPECT_GT(tally.compared, 500);
    RecordProperty("worst_" + std::to_string(window), std::to_string(tally.worst));
  }
}

// ---- single promises

// The logits of token 7 at `position`, written nowhere.
Rows probe(int position) {
  Rows rows;
  rows.rows.emplace_back(7, position);
  rows.rows.back().write = Write::none();
  rows.rows.back().want.emplace();
  rows.rows.back().want->logits = true;
  return rows;
}

std::vector<int32_t> words(int document, int n) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(word_of(document, i));
  return tokens;
}

class Promises : public testing::Test {
 protected:
  // `program` over an engine of its own.
  void on_engine(EngineOptions o, const std::function<Task<void>(Engine&, Context&)>& program) {
    Engine engine(tiny_.model, tiny_.pool, o);
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(engine, request);
                   co_await program(engine, context);
                 }});
  }
  TinyModel tiny_ = tiny_model(tensor::Type::kQ4_1, tensor::Arithmetic::kExactQ8, 1);
};

TEST_F(Promises, WhatSawDroppedOrReplacedSlotsIsNotTakenForItsTokens) {
  const auto tokens = words(1, 130);
  for (const bool drop : {true, false}) {
    on_engine(options(tensor::KvType::kF16, 64, true),
              [&](Engine& engine, Context& context) -> Task<void> {
                co_await engine.forward(context, Rows::append(tokens, 0, std::nullopt));
                Answer answer = co_await engine.forward(context, probe(130));
                const std::vector<float> expected = answer.rows[0].logits;
                engine.prefix_cache().clear();
                if (drop) {
                  context.drop(0, 32);  // whole pages: the rest stands on page borders
                } else {
                  Rows rows;
                  rows.rows.emplace_back(5, 0);
                  rows.rows.back().write = Write::at(0);
                  rows.rows.back().view = rows.add_view({});
                  co_await engine.forward(context, std::move(rows));
                }
                co_await engine.forward(context, Rows::append(words(2, 40), 130, std::nullopt));
                // A Context that holds just those tokens at those positions, and saw nothing else.
                const auto request = context.state().request;
                Context fresh(engine, request);
                Rows rows;
                rows.splittable = true;
                for (int i = drop ? 32 : 0; i < 130; ++i)
                  rows.rows.emplace_back(tokens[size_t(i)], i);
                if (!drop) rows.rows[0].in.token = 5;
                co_await engine.forward(fresh, std::move(rows));
                answer = co_await engine.forward(fresh, probe(130));
                const std::vector<float> got = answer.rows[0].logits;
                Context plain(engine, request, 77);  // of another salt: nothing cached
                rows = Rows();
                rows.splittable = true;
                for (int i = drop ? 32 : 0; i < 130; ++i)
                  rows.rows.emplace_back(tokens[size_t(i)], i);
                if (!drop) rows.rows[0].in.token = 5;
                co_await engine.forward(plain, std::move(rows));
                answer = co_await engine.forward(plain, probe(130));
                EXPECT_EQ(got, answer.rows[0].logits);
                EXPECT_NE(got, expected);
              });
  }
}

TEST_F(Promises, AContextComesBackFromTheCacheAlone) {
  on_engine(options(tensor::KvType::kF16, 64, true),
            [&](Engine& engine, Context& context) -> Task<void> {
              co_await engine.forward(context, Rows::append(words(1, 64), 0, std::nullopt));
              Answer answer = co_await engine.forward(context, probe(64));
              const std::vector<float> expected = answer.rows[0].logits;
              context.release();
              const uint64_t rows = engine.statistics().rows;
              co_await engine.restore(context);
              EXPECT_EQ(context.state().resident, 64);
              EXPECT_EQ(engine.statistics().rows, rows);
              context.release();
              answer = co_await engine.forward(context, probe(64));
              EXPECT_EQ(answer.rows[0].logits, expected);
              EXPECT_EQ(engine.statistics().rows, rows + 1);
            });
}

TEST_F(Promises, SlotsThatSawWhatGoesMustBeThere) {
  std::vector<float> expected;
  for (const bool released : {false, true}) {
    on_engine(options(tensor::KvType::kF16, 64),
              [&](Engine& engine, Context& context) -> Task<void> {
                co_await engine.forward(context, Rows::append(words(1, 70), 0, std::nullopt));
                if (released) {
                  context.release();
                  EXPECT_THROW(context.drop(10, 20), Error);
                  const std::vector<int> kept{1, 2};
                  EXPECT_THROW(context.keep(60, kept), Error);
                  EXPECT_EQ(context.size(), 70);
                  co_await engine.restore(context);
                  EXPECT_EQ(context.state().resident, 70);
                }
                context.drop(10, 20);
                EXPECT_FALSE(context.state().reproducible);
                EXPECT_THROW(context.release(), Error);
                const Answer answer = co_await engine.forward(context, probe(70));
                if (released) {
                  EXPECT_EQ(answer.rows[0].logits, expected);
                }
                expected = answer.rows[0].logits;
              });
  }
}

// A block whose rows saw each other loses its end: what stays keeps its keys, and is never
// recomputed.
TEST_F(Promises, ATornBlockKeepsWhatItSaw) {
  std::vector<float> expected;
  for (const bool torn_by_keep : {false, true}) {
    on_engine(options(tensor::KvType::kF16, 64),
              [&](Engine& engine, Context& context) -> Task<void> {
                co_await engine.forward(context, Rows::append(words(1, 10), 0, std::nullopt));
                Rows block;
                const ViewId all = block.add_view({Segment::slots(), Segment::fresh()});
                for (int i = 0; i < 6; ++i) {
                  block.rows.emplace_back(word_of(2, i), 10 + i);
                  block.rows.back().view = all;
                }
                co_await engine.forward(context, std::move(block));
                EXPECT_TRUE(context.state().reproducible);
                if (torn_by_keep) {
                  const std::vector<int> kept{0, 1, 2};
                  context.keep(10, kept);
                } else {
                  context.truncate(13);
                }
                EXPECT_FALSE(context.state().reproducible);
                const Answer answer = co_await engine.forward(context, probe(13));
                if (torn_by_keep) {
                  EXPECT_EQ(answer.rows[0].logits, expected);
                }
                expected = answer.rows[0].logits;
              });
  }
}

// A kept path is ordinary text again: recomputed, and found in the cache by others.
TEST_F(Promises, AKeptPathIsPlainText) {
  on_engine(options(tensor::KvType::kF16, 64, true),
            [&](Engine& engine, Context& context) -> Task<void> {
              const auto tokens = words(1, 34);
              co_await engine.forward(context,
                                      Rows::append(std::span(tokens).first(30), 0, std::nullopt));
              Rows tree;  // rows 0, 2, 3, 4 are the text, row 1 a wrong guess beside row 0
              std::vector<Segment> above{Segment::slots()};
              for (const int row : {0, 1, 2, 3, 4}) {
                const int depth = row == 0 ? 0 : row - 1;
                tree.rows.emplace_back(row == 1 ? 3 : tokens[size_t(30 + depth)], 30 + depth);
                tree.rows.back().view =
                    row == 1 ? tree.add_view({Segment::slots()}) : tree.add_view(above);
                if (row != 1) above.push_back(Segment::fresh(row, 1));
              }
              co_await engine.forward(context, std::move(tree));
              const std::vector<int> path{0, 2, 3, 4};
              context.keep(30, path);
              Answer answer = co_await engine.forward(context, probe(34));
              const std::vector<float> kept = answer.rows[0].logits;
              context.release();
              answer = co_await engine.forward(context, probe(34));
              EXPECT_EQ(answer.rows[0].logits, kept);
              Context other(engine, context.state().request);
              co_await engine.forward(other, Rows::append(tokens, 0, std::nullopt));
              EXPECT_EQ(context.state().request->statistics.cached_tokens, 32u);
              answer = co_await engine.forward(other, probe(34));
              EXPECT_EQ(answer.rows[0].logits, kept);
            });
}

// An answered program finds its pages, though an older one wants them before it has run.
TEST_F(Promises, PagesStayUntilTheAnswerIsRead) {
  Engine engine(tiny_.model, tiny_.pool, options(tensor::KvType::kF16, 5));
  bool dropped = false;
  run_programs(engine,
               {[&](std::shared_ptr<Request> request) -> Task<void> {
                  Context context(engine, request);
                  co_await engine.forward(context, Rows::append(words(1, 32), 0, std::nullopt));
                  // Longer than programs may run between two ticks: the other's answer waits
                  // meanwhile.
                  const auto start = std::chrono::steady_clock::now();
                  while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(20)) {
                  }
                  co_await engine.forward(context, Rows::append(words(2, 96), 32, std::nullopt));
                },
                [&](std::shared_ptr<Request> request) -> Task<void> {
                  Context context(engine, request);
                  co_await engine.forward(context, Rows::append(words(3, 96), 0, std::nullopt));
                  EXPECT_EQ(context.state().resident, 96);
                  context.drop(0, 40);
                  dropped = true;
                }});
  EXPECT_TRUE(dropped);
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

TEST_F(Promises, QueriesThatHaveNoAnswerAreRefused) {
  const auto refused = [&](const std::function<void(Rows&)>& edit) {
    std::string message;
    on_engine(options(tensor::KvType::kF16, 64),
              [&](Engine& engine, Context& context) -> Task<void> {
                Rows rows = probe(0);
                Rows second = probe(1);
                rows.rows.push_back(second.rows[0]);
                edit(rows);
                try {
                  co_await engine.forward(context, std::move(rows));
                } catch (const Error& e) {
                  message = e.what();
                }
              });
    return message;
  };
  EXPECT_EQ(refused([](Rows&) {}), "");
  // Guidance with a row that wants no logits.
  EXPECT_NE(refused([](Rows& rows) {
              rows.rows[0].want->logits = false;
              rows.rows[0].want->hidden = {0};
              rows.rows[1].want->mix = {{0, 0, 1.0f}, {0, 1, 1.0f}};
            }).find("mixes a row whose logits are not wanted"),
            std::string::npos);
  // Guidance over rows that may be computed in different ticks.
  EXPECT_NE(refused([](Rows& rows) {
              rows.splittable = true;
              for (Row& row : rows.rows) row.write = Write::append();
              rows.rows[1].want->mix = {{0, 0, 1.0f}};
            }).find("different ticks"),
            std::string::npos);
  const auto copy = [](Rows& rows, int enter, int source_enter) {
    rows.rows[0].active.enter = source_enter;
    rows.rows[1].in.kind = RowInput::kFromRow;
    rows.rows[1].in.row = 0;
    rows.rows[1].active.enter = enter;
  };
  EXPECT_EQ(refused([&](Rows& rows) { copy(rows, 1, 1); }), "");
  EXPECT_NE(refused([&](Rows& rows) { copy(rows, 0, 1); }).find("enters at a later layer"),
            std::string::npos);
  EXPECT_NE(refused([&](Rows& rows) {
              copy(rows, 1, 0);
              rows.rows[1].want->hidden = {0};
            }).find("before it has one"),
            std::string::npos);
}

// ---- the same programs with == on bits

struct Setting {
  tensor::Type type;
  int window;
  tensor::KvType kv;
  tensor::Arithmetic arithmetic = tensor::Arithmetic::kExactQ8;
};

constexpr int kPrograms = 32;

// What each program got, run side by side, or (alone) one after the other.
std::vector<std::vector<float>> records(Engine& engine, Kind kind, bool alone,
                                        const std::vector<int>& prefixes) {
  std::vector<std::unique_ptr<Program>> programs;
  std::vector<TestProgram> runs;
  for (int i = 0; i < kPrograms; ++i) {
    programs.push_back(std::make_unique<Program>(engine, 2000 + uint64_t(i), kind, prefixes));
    runs.push_back([program = programs.back().get()](std::shared_ptr<Request> request) {
      return program->run(request);
    });
  }
  if (alone) {
    for (const auto& one : runs) run_programs(engine, {one});
  } else {
    run_programs(engine, runs);
  }
  std::vector<std::vector<float>> out;
  for (const auto& program : programs) out.push_back(program->record());
  return out;
}

bool same_bits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size() ||
        std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0) {
      ADD_FAILURE() << "program " << i << " differs";
      return false;
    }
  }
  return true;
}

uint64_t digest(const std::vector<std::vector<float>>& all) {
  uint64_t hash = 14695981039346656037ull;
  for (const auto& one : all) {
    for (const float x : one) {
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      hash = (hash ^ bits) * 1099511628211ull;
    }
  }
  return hash;
}

class Bits : public testing::TestWithParam<Setting> {
 protected:
  static TinyModel model(int threads) {
    return tiny_model(GetParam().type, GetParam().arithmetic, threads, GetParam().window);
  }
};

INSTANTIATE_TEST_SUITE_P(Models, Bits,
                         testing::Values(Setting{tensor::Type::kF32, 10, tensor::KvType::kF32},
                                         Setting{tensor::Type::kQ4_1, 0, tensor::KvType::kF16},
                                         Setting{tensor::Type::kQ8_0, 10, tensor::KvType::kI8},
                                         Setting{tensor::Type::kQ4_1, 10, tensor::KvType::kF16,
                                                 tensor::Arithmetic::kW8A8Row},
                                         Setting{tensor::Type::kQ8_0, 0, tensor::KvType::kF16,
                                                 tensor::Arithmetic::kBf16Dot}),
                         [](const auto& info) {
                           std::string r(tensor::info(info.param.type).name);
                           r += "_" + std::string(tensor::name(info.param.arithmetic));
                           std::ranges::replace(r, '-', '_');
                           return r;
                         });

TEST_P(Bits, NeighboursThreadsAndCachedPagesDoNotMatter) {
  const TinyModel one = model(1), two = model(2);
  Engine plain(one.model, one.pool, options(GetParam().kv));
  Engine other(two.model, two.pool, options(GetParam().kv, 1024, true));
  const auto expected = records(plain, Kind(), true, add_prefixes(plain));
  const std::vector<int> prefixes = add_prefixes(other);
  EXPECT_TRUE(same_bits(expected, records(other, Kind(), false, prefixes)));
  EXPECT_GT(other.statistics().rows / other.statistics().ticks, 12u)
      << "programs do not run side by side";
  EXPECT_TRUE(same_bits(expected, records(other, Kind(), true, prefixes)));  // from a full cache
  EXPECT_GT(other.statistics().cached_rows, 500u);
}

TEST_P(Bits, PagesTakenAwayDoNotMatter) {
  const TinyModel one = model(1);
  Kind kind;
  kind.reproducible = true;
  kind.steps = 40;
  Engine ample(one.model, one.pool, options(GetParam().kv, 2048));
  const auto expected = records(ample, kind, true, {});
  for (const bool cache : {false, true}) {
    EngineOptions scarce = options(GetParam().kv, 40, cache);
    scarce.max_prompt_rows = 20;  // rebuilds are cut, also where rows saw later ones
    Engine engine(one.model, one.pool, scarce);
    EXPECT_TRUE(same_bits(expected, records(engine, kind, false, {})));
    EXPECT_GT(engine.statistics().preemptions, 50u);
    EXPECT_GT(engine.statistics().rebuilt_rows, 1000u);
    engine.prefix_cache().clear();
    EXPECT_EQ(engine.pages().free(), engine.pages().total());
  }
}

// What cannot be recomputed keeps its pages; the rest gives way to it.
TEST_P(Bits, PagesThatCannotBeRecomputedStay) {
  const TinyModel one = model(1);
  Engine ample(one.model, one.pool, options(GetParam().kv, 2048));
  const auto expected = records(ample, Kind(), true, add_prefixes(ample));
  Engine engine(one.model, one.pool, options(GetParam().kv, 200, true));
  EXPECT_TRUE(same_bits(expected, records(engine, Kind(), false, add_prefixes(engine))));
  EXPECT_GT(engine.statistics().preemptions, 0u);
}

// Run by the test below in processes of their own: a process chooses its instruction set once.
TEST(BitsOfThisProcess, DISABLED_Print) {
  for (const Setting& s :
       {Setting{tensor::Type::kF32, 10, tensor::KvType::kF16},
        Setting{tensor::Type::kQ5_0, 0, tensor::KvType::kI8},
        Setting{tensor::Type::kQ5_0, 0, tensor::KvType::kI8, tensor::Arithmetic::kW8A8Row},
        Setting{tensor::Type::kQ5_0, 0, tensor::KvType::kI8, tensor::Arithmetic::kBf16Dot}}) {
    const TinyModel tiny = tiny_model(s.type, s.arithmetic, 1, s.window);
    Engine engine(tiny.model, tiny.pool, options(s.kv));
    Kind kind;
    kind.steps = 10;
    std::printf(
        "digest %016llx at %s\n",
        static_cast<unsigned long long>(digest(records(engine, kind, false, add_prefixes(engine)))),
        std::string(tensor::name(tensor::kernels().isa)).c_str());
  }
}

TEST(Views, EveryInstructionSetGivesTheSameBits) {
  std::vector<std::string> first;
  for (const tensor::Isa isa : tensor::available_isas()) {
    const std::string level(tensor::name(isa));
    const std::string command =
        "TUTTI_ISA=" + level + " /proc/" + std::to_string(::getpid()) +
        "/exe --gtest_also_run_disabled_tests --gtest_filter=BitsOfThisProcess.*";
    FILE* pipe = ::popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    std::vector<std::string> digests;
    char line[256];
    while (std::fgets(line, sizeof line, pipe)) {
      const std::string text(line);
      if (!text.starts_with("digest ")) continue;
      EXPECT_TRUE(text.ends_with(" at " + level + "\n")) << text;
      digests.push_back(text.substr(0, 23));
    }
    ::pclose(pipe);
    ASSERT_EQ(digests.size(), 4u) << level;
    EXPECT_EQ(std::set<std::string>(digests.begin(), digests.end()).size(), 4u) << level;
    if (first.empty()) first = digests;
    EXPECT_EQ(digests, first) << level;
  }
}

}  // namespace
}  // namespace tutti::engine
