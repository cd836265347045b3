// Two streams in an any-order model: what content and query rows see through Views gives the
// numbers of an independent network, and the bits of a row depend on nothing but what it sees.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/test_programs.h"
#include "models/crafted_xlnet.h"
#include "models/xlnet_oracle.h"

namespace tutti::engine {
namespace {

using Logits = std::vector<float>;
using models::XlnetOracle;

struct Fixture {
  std::shared_ptr<ComputePool> pool;
  std::shared_ptr<const models::Checkpoint> checkpoint;
  std::shared_ptr<const models::Model> model;
};

Fixture make_fixture(int threads, const models::XlnetShape& shape = {}) {
  Fixture f;
  f.pool = std::make_shared<ComputePool>(threads);
  f.checkpoint = models::xlnet_checkpoint(shape);
  f.model = std::make_shared<models::Model>(f.checkpoint, tensor::Arithmetic::kExactQ8, *f.pool);
  return f;
}

EngineOptions exact_pages() {
  EngineOptions options = small_engine(128);
  options.kv = tensor::KvType::kF32;
  return options;
}

// A text of which some positions are given and see each other, and the rest are filled in the order
// of `order`.
struct Task45 {
  std::vector<int32_t> tokens;
  std::vector<int> given, order;
  std::vector<int> segments;
};

Task45 random_task(uint32_t seed, int n, int given, int vocab, bool segments = false) {
  std::mt19937 random(seed);
  Task45 t;
  std::vector<int> positions(static_cast<size_t>(n));
  std::iota(positions.begin(), positions.end(), 0);
  std::shuffle(positions.begin(), positions.end(), random);
  t.given.assign(positions.begin(), positions.begin() + given);
  std::sort(t.given.begin(), t.given.end());
  t.order.assign(positions.begin() + given, positions.end());
  for (int i = 0; i < n; ++i) {
    t.tokens.push_back(int32_t(random() % uint32_t(vocab)));
    t.segments.push_back(segments ? int(random() % 3) : 0);
  }
  return t;
}

Row content_row(const Task45& t, int position) {
  Row row(t.tokens[size_t(position)], position);
  row.segment_id = t.segments[size_t(position)];
  return row;
}

Row query_row(const Task45& t, int position) {
  Row row;
  row.in.kind = RowInput::kMask;
  row.position = position;
  row.segment_id = t.segments[size_t(position)];
  row.sees_self = false;
  row.write = Write::none();
  row.want = want_logits();
  return row;
}

Rows prompt_rows(const Task45& t) {
  Rows rows;
  const ViewId all = rows.add_view({Segment::fresh()});
  for (const int p : t.given) {
    rows.rows.push_back(content_row(t, p));
    rows.rows.back().view = all;
  }
  return rows;
}

// Content rows of order[from, to) and, before each, its query row, as one query.
Rows fill_rows(const Task45& t, int from, int to) {
  Rows rows;
  int before = 0;  // content rows so far
  View seen{Segment::slots()};
  for (int i = from; i < to; ++i, ++before) {
    const ViewId view = rows.add_view(seen);
    rows.rows.push_back(query_row(t, t.order[size_t(i)]));
    rows.rows.back().view = view;
    rows.rows.push_back(content_row(t, t.order[size_t(i)]));
    rows.rows.back().view = view;
    seen.push_back(Segment::fresh(int(rows.rows.size()) - 1, 1));
  }
  return rows;
}

// Logits of the query rows of all filled positions, in their order, put down in pieces of these
// sizes (then the rest).
std::vector<Logits> fill(Engine& engine, const Task45& t, std::vector<int> pieces,
                         const std::function<Task<void>(Context&)>& between = {}) {
  std::vector<Logits> out;
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine, request);
                 if (!t.given.empty()) co_await engine.forward(context, prompt_rows(t));
                 const int n = int(t.order.size());
                 size_t piece = 0;
                 for (int at = 0; at < n;) {
                   const int count = piece < pieces.size() ? pieces[piece++] : n - at;
                   if (between) co_await between(context);
                   const Answer answer =
                       co_await engine.forward(context, fill_rows(t, at, at + count));
                   for (const RowAnswer& row : answer.rows) {
                     if (!row.logits.empty()) out.push_back(row.logits);
                   }
                   at += count;
                 }
               }});
  return out;
}

// The same by the oracle: rank matrices of the paper, content rows then query rows.
std::vector<XlnetOracle::Numbers> oracle_fill(const models::Checkpoint& checkpoint,
                                              const Task45& t) {
  const int n = int(t.tokens.size()), given = int(t.given.size());
  std::vector<int> rank(static_cast<size_t>(n));
  for (int i = 0; i < given; ++i) rank[size_t(t.given[size_t(i)])] = i;
  for (size_t i = 0; i < t.order.size(); ++i) rank[size_t(t.order[i])] = given + int(i);
  std::vector<XlnetOracle::Row> rows;
  for (int p = 0; p < n; ++p) rows.push_back({p, t.tokens[size_t(p)], t.segments[size_t(p)]});
  for (const int p : t.order) rows.push_back({p, -1, t.segments[size_t(p)]});
  std::vector<std::vector<bool>> sees(rows.size(), std::vector<bool>(rows.size()));
  for (size_t i = 0; i < rows.size(); ++i) {
    const int own = rank[size_t(rows[i].position)];
    for (int j = 0; j < n; ++j) {
      const int other = rank[size_t(j)];
      sees[i][size_t(j)] = other < own || (own < given && other < given) || int(i) == j;
    }
  }
  auto logits = XlnetOracle(checkpoint).forward(rows, sees);
  logits.erase(logits.begin(), logits.begin() + n);
  return logits;
}

double largest_gap(const std::vector<Logits>& got,
                   const std::vector<XlnetOracle::Numbers>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  double gap = 0, most = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    for (size_t j = 0; j < got[i].size(); ++j) {
      gap = std::max(gap, std::abs(double(got[i][j]) - expected[i][j]));
      most = std::max(most, std::abs(expected[i][j]));
    }
  }
  return gap / most;
}

TEST(TwoStreams, LogitsAreThoseOfTheFormulas) {
  for (const int clamp : {-1, 5}) {
    models::XlnetShape shape;
    shape.clamp = clamp;
    const Fixture f = make_fixture(1, shape);
    Engine engine(f.model, f.pool, exact_pages());
    for (uint32_t seed = 0; seed < 4; ++seed) {
      const Task45 t = random_task(seed, 37, seed == 3 ? 0 : 11, 40, seed % 2 == 1);
      EXPECT_LE(largest_gap(fill(engine, t, {}), oracle_fill(*f.checkpoint, t)), 1e-5)
          << clamp << " " << seed;
    }
  }
}

TEST(TwoStreams, PiecesThreadsAndNeighboursDoNotMatter) {
  const Fixture one = make_fixture(1), two = make_fixture(2);
  EngineOptions options = small_engine(256);
  Engine alone(one.model, one.pool, options), pair(two.model, two.pool, options);
  const Task45 t = random_task(9, 90, 30, 40, true);
  const std::vector<Logits> whole = fill(alone, t, {});
  EXPECT_EQ(whole, fill(alone, t, std::vector<int>(60, 1)));
  EXPECT_EQ(whole, fill(alone, t, {7, 1, 30, 2}));
  EXPECT_EQ(whole, fill(pair, t, {3, 3, 3}));
  // Beside others, and with pages taken away and recomputed between the pieces.
  std::vector<Logits> beside;
  std::vector<TestProgram> programs;
  for (uint32_t s = 0; s < 9; ++s) {
    programs.push_back([&, s](std::shared_ptr<Request> request) -> Task<void> {
      Context context(pair, request);
      const Task45 own = s == 4 ? t : random_task(100 + s, 20 + int(s), int(s), 40);
      if (!own.given.empty()) co_await pair.forward(context, prompt_rows(own));
      for (size_t at = 0; at < own.order.size(); at += 5) {
        if (s % 2 == 0) context.release();
        const int to = int(std::min(at + 5, own.order.size()));
        const Answer answer = co_await pair.forward(context, fill_rows(own, int(at), to));
        for (const RowAnswer& row : answer.rows) {
          if (s == 4 && !row.logits.empty()) beside.push_back(row.logits);
        }
      }
    });
  }
  run_programs(pair, programs);
  EXPECT_EQ(whole, beside);
  EXPECT_EQ(pair.pages().free(), pair.pages().total());
}

TEST(TwoStreams, AQueryDoesNotSeeItsOwnToken) {
  const Fixture f = make_fixture(1);
  Engine engine(f.model, f.pool, small_engine());
  Task45 t = random_task(3, 24, 6, 40);
  const std::vector<Logits> before = fill(engine, t, {});
  t.tokens[size_t(t.order[10])] ^= 1;
  const std::vector<Logits> after = fill(engine, t, {});
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(before[i] == after[i], i <= 10) << i;
}

// A distance's key is the same number whatever tile of the table it stands in.
TEST(TwoStreams, TheLengthOfTheTableDoesNotMatter) {
  models::XlnetShape near, far;
  near.context = 40;
  far.context = 500;
  const Fixture a = make_fixture(1, near), b = make_fixture(1, far);
  Engine first(a.model, a.pool, small_engine()), second(b.model, b.pool, small_engine());
  const Task45 t = random_task(5, 40, 10, 40);
  EXPECT_EQ(fill(first, t, {}), fill(second, t, {9}));
}

TEST(TwoStreams, WhatMakesNoSenseIsRefused) {
  const Fixture f = make_fixture(1);
  Engine engine(f.model, f.pool, small_engine());
  Task45 t = random_task(1, 8, 4, 40);
  const auto message = [&](const Rows& rows) -> std::string {
    try {
      run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                     Context context(engine, request);
                     co_await engine.forward(context, rows);
                   }});
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  Rows rows = prompt_rows(t);
  rows.rows[1].position = 128;
  EXPECT_NE(message(rows).find("position 128 is not in [0, 128)"), std::string::npos)
      << message(rows);
}

}  // namespace
}  // namespace tutti::engine
