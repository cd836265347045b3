// Pace on simulated machines and texts: it is never far from the best fixed length, nor from no
// drafts at all.
#include "decode/speculative/pace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "base/draws.h"
#include "decode/speculative/acceptance.h"

namespace tutti::decode::speculative {
namespace {

constexpr int kLongest = 16;

struct Machine {
  double forward, row, noise;  // seconds of a forward, of each row; relative spread of the clock
  double seconds(int rows) const { return forward + row * rows; }
};

// A request alone on a machine, whose drafts stand with probability `alpha` each.
class Simulation {
 public:
  Simulation(Machine machine, double alpha, uint64_t seed)
      : machine_(machine), alpha_(alpha), draws_(seed) {
    tick(60, 1);  // the prompt
  }

  // Seconds per token of `tokens` tokens; `fixed` < 0: as Pace says.
  double run(int tokens, int fixed) {
    Pace pace(cost_, statistics_, fixed < 0);
    Acceptance acceptance({0.5});
    const double before = time_;
    for (int done = 0; done < tokens;) {
      pace.begin(100);
      Tree chain(1);
      int node = Tree::kRoot;
      for (int i = 0; i < (fixed < 0 ? kLongest : fixed); ++i)
        node = chain.add(node, 2 + i, 0, acceptance[0]);
      const Tree tree = pace.trim(chain);
      Accepted accepted;
      accepted.nodes = {0};
      while (accepted.drafts() < tree.drafted() && draws_.chance(alpha_))
        accepted.nodes.push_back(int(accepted.nodes.size()));
      const int emitted = accepted.drafts() + 1;
      tick(tree.size(), emitted);
      pace.end(tree.size(), emitted);
      acceptance.learn(tree, accepted);
      done += emitted;
    }
    return (time_ - before) / tokens;
  }

 private:
  void tick(int rows, int tokens) {
    const double seconds = machine_.seconds(rows);
    cost_.record(rows, 100, seconds * (1 + machine_.noise * (double(draws_.uniform(0, 1)) - 0.5)));
    time_ += seconds;
    ++statistics_.ticks;
    statistics_.rows += uint64_t(rows);
    statistics_.tokens += uint64_t(tokens);
  }

  Machine machine_;
  double alpha_;
  Draws draws_;
  engine::CostTable cost_;
  engine::EngineStatistics statistics_;
  double time_ = 0;
};

TEST(Pace, IsNeverFarFromTheBestFixedLength) {
  const Machine machines[] = {
      {0.005, 0.0001, 0.0},  // rows are nearly free
      {0.004, 0.001, 0.1},   // a row is a fifth of a forward
      {0.003, 0.003, 0.2},   // a row is half of it
      {0.001, 0.010, 0.2},   // all is in the rows
  };
  for (const Machine& machine : machines) {
    for (const double alpha : {0.0, 0.2, 0.5, 0.8, 0.95}) {
      const int tokens = 4000;
      double best = 1e9;
      for (int fixed = 0; fixed <= kLongest; ++fixed) {
        best = std::min(best, Simulation(machine, alpha, 1).run(tokens, fixed));
      }
      const double plain = machine.seconds(1);
      const double paced = Simulation(machine, alpha, 2).run(tokens, -1);
      EXPECT_LE(paced, plain * 1.03) << machine.row << ", " << alpha;
      EXPECT_LE(paced, best * 1.10) << machine.row << ", " << alpha;
    }
  }
}

TEST(Pace, UnpredictableTextCostsLittleFromTheFirstTokenOn) {
  const Machine machine{0.004, 0.001, 0.1};
  for (uint64_t seed = 0; seed < 5; ++seed) {
    EXPECT_LE(Simulation(machine, 0.02, seed).run(200, -1), machine.seconds(1) * 1.10) << seed;
  }
}

TEST(Pace, OthersRowsMakeDraftsDear) {
  // Beside 31 rows a draft costs as much as alone, but a second of the engine writes 32 tokens, not
  // one.
  engine::CostTable cost;
  engine::EngineStatistics statistics;
  for (const int rows : {1, 2, 4, 8, 16, 32, 64}) {
    for (int i = 0; i < 20; ++i) cost.record(rows, 100, 0.004 + 0.0004 * rows);
  }
  const auto chosen = [&](int others) {
    Pace pace(cost, statistics, true);
    for (int i = 0; i < 40; ++i) {
      pace.begin(100);
      ++statistics.ticks;
      statistics.rows += uint64_t(others) + 2;
      statistics.tokens += uint64_t(others) + 2;
      pace.end(2, 2);
    }
    pace.begin(100);
    Tree chain(1);
    int node = Tree::kRoot;
    for (int i = 0; i < kLongest; ++i) node = chain.add(node, 2 + i, 0, 0.9);
    const double first = pace.least_reach(0), later = pace.least_reach(5);
    EXPECT_LE(first, later + 1e-9);
    return pace.trim(chain).drafted();
  };
  EXPECT_GE(chosen(0), 3);
  EXPECT_EQ(chosen(7), 3);   // a row costs what 0.44 tokens cost, and counts for 0.65
  EXPECT_EQ(chosen(31), 0);  // 0.8 tokens, and 1.1 as it counts
}

// A kernel's step from four rows to five beside three streams: a draft that stands more often than
// not loses, several sure ones together win. Prompts that come and go change nothing.
TEST(Pace, BesideOthersOnlyWhatIsSureCrossesAStep) {
  for (const uint64_t prompt : {0, 200}) {
    engine::CostTable cost;
    engine::EngineStatistics statistics;
    for (int rows = 1; rows <= 16; ++rows) {
      for (int i = 0; i < 20; ++i)
        cost.record(rows, 100, (rows <= 4 ? 0.0034 : 0.0042) + 0.00005 * rows);
    }
    cost.record(256, 100, 0.150);
    const auto chosen = [&](double reach, int drafts) {
      Pace pace(cost, statistics, true);
      for (int i = 0; i < 8; ++i) {
        pace.begin(100);
        ++statistics.ticks;
        statistics.rows += 4 + prompt;
        statistics.prompt_rows += prompt;
        statistics.tokens += 4;
        pace.end(1, 1);
      }
      pace.begin(100);
      Tree chain(1);
      for (int i = 0, node = Tree::kRoot; i < drafts; ++i) node = chain.add(node, 2 + i, 0, reach);
      return pace.trim(chain).drafted();
    };
    EXPECT_EQ(chosen(0.7, 1), 0) << prompt;
    EXPECT_EQ(chosen(0.99, 4), 4) << prompt;
    Pace fresh(cost, statistics, true);
    statistics.ticks += 3;  // its prompt's
    statistics.tokens += 3 * 3 + 1;
    fresh.begin(100);
    Tree chain(1);
    chain.add(Tree::kRoot, 2, 0, 0.7);
    EXPECT_EQ(fresh.trim(chain).drafted(), 0) << "before its own first forward";
    engine::EngineStatistics lone;
    Pace alone(cost, lone, true);
    alone.begin(100);
    EXPECT_EQ(alone.trim(chain).drafted(), 1);
  }
}

TEST(Pace, DraftsThatTakeTimeMustBeMoreLikely) {
  engine::CostTable cost;
  engine::EngineStatistics statistics;
  for (const int rows : {1, 2, 4, 8}) {
    for (int i = 0; i < 20; ++i) cost.record(rows, 100, 0.009 + 0.001 * rows);
  }
  Pace pace(cost, statistics, true);
  pace.begin(100);
  // A row more costs a tenth of a forward, five milliseconds half of one; both are overrated.
  EXPECT_NEAR(pace.least_reach(0, 0), 0.125, 1e-6);
  EXPECT_NEAR(pace.least_reach(0, 0.005), 0.75, 1e-6);
  EXPECT_GT(pace.least_reach(0, 0.010), 1.0);  // as dear as the target's own token: never
  Pace all(cost, statistics, false);
  EXPECT_EQ(all.least_reach(3, 1.0), 0);
}

engine::CostTable costs(double row) {
  engine::CostTable cost;
  for (int rows = 1; rows <= 64; rows *= 2) cost.record(rows, 100, 1 + row * rows);
  return cost;
}

TEST(Pace, GuessesAreCarriedOnlyWhereTheyPay) {
  const engine::EngineStatistics statistics;
  const std::vector<double> reach{0.5, 0.3, 0.2};
  for (const double row : {0.01, 1.0}) {
    const engine::CostTable cost = costs(row);
    Pace pace(cost, statistics, true);
    pace.begin(100);
    EXPECT_EQ(pace.carrying_pays({3, 2}, reach), row < 0.1);
    EXPECT_TRUE(Pace(cost, statistics, false).carrying_pays({3, 2}, reach));
  }
}

// Guesses come a forward after they were carried: a probe is both, and the second is judged.
TEST(Pace, AProbeOfGuessesIsJudgedWhereTheyAreVerified) {
  engine::EngineStatistics statistics;
  const engine::CostTable cost = costs(0.1);
  const std::vector<double> unlikely{0.01};
  Tree tree(1);
  for (int i = 0, node = Tree::kRoot; i < 5; ++i) node = tree.add(node, 2 + i, 0, 0.1);
  const Carried guesses{3, 2};
  Pace pace(cost, statistics, true);
  // Forwards without anything until a probe begins.
  const auto wait = [&] {
    int forwards = 0;
    for (pace.begin(100); !pace.probing(); pace.begin(100), ++forwards) {
      EXPECT_FALSE(pace.carrying_pays(guesses, unlikely));
      ++statistics.ticks;
      pace.end(1, 1);
    }
    return forwards;
  };
  const auto probe = [&](int tokens, int drafts) {
    EXPECT_TRUE(pace.carrying_pays(guesses, unlikely));
    pace.carry(guesses);
    pace.end(1, 1);  // there were no guesses yet
    pace.begin(100);
    EXPECT_TRUE(pace.probing());
    pace.carry(guesses);
    const int drafted = pace.trim(tree).drafted();
    EXPECT_EQ(drafted, drafts);
    pace.end(1 + drafted, tokens);
  };
  const int first = wait();
  probe(4, 3);  // all stood: it paid
  EXPECT_EQ(wait(), first);
  probe(1, 1);
  EXPECT_EQ(wait(), 2 * first);
  // Where no guesses come the probe ends, too.
  for (int i = 0; i < 2; ++i) {
    pace.carry(guesses);
    pace.end(1, 1);
    pace.begin(100);
  }
  EXPECT_FALSE(pace.probing());
}

TEST(Pace, ADraftPaysForTheRowsBesideIt) {
  const engine::EngineStatistics statistics;
  const engine::CostTable cost = costs(0.1);
  Tree tree(1);
  tree.add(Tree::kRoot, 2, 0, 0.2);
  const auto chosen = [&](Carried carried) {
    Pace pace(cost, statistics, true);
    pace.begin(100);
    pace.carry(carried);
    return pace.trim(tree).drafted();
  };
  EXPECT_EQ(chosen({}), 1);      // 1.2 tokens in 1.2 seconds, else 1 in 1.1
  EXPECT_EQ(chosen({3, 2}), 0);  // 1.2 in 1.8, else 1 in 1.4
}

// Requests that decode side by side on a machine whose forwards go in tiles of eight rows.
class Crowd {
 public:
  Crowd(int requests, double forward, double tile, double alpha)
      : forward_(forward), tile_(tile), alpha_(alpha) {
    for (int i = 0; i < requests; ++i) {
      paces_.push_back(
          std::make_unique<Pace>(cost_, statistics_, true, &probes_, /*judged=*/true, &offers_));
      acceptances_.emplace_back(std::vector<double>{alpha});
      trees_.emplace_back(1);
    }
  }

  // Tokens a second over `ticks`, with `most` drafts for each request.
  double run(int ticks, int most) {
    for (size_t i = 0; i < paces_.size(); ++i) wish(i, most);
    for (int t = 0; t < ticks; ++t) tick(most);
    return double(statistics_.tokens) / time_;
  }
  double plain() const { return double(paces_.size()) / seconds(int(paces_.size())); }

 private:
  double seconds(int rows) const { return forward_ + tile_ * ((rows + 7) / 8); }

  void wish(size_t i, int most) {
    trees_[i] = Tree(1);
    for (int d = 0, node = Tree::kRoot; d < most; ++d)
      node = trees_[i].add(node, 2 + d, 0, acceptances_[i][0]);
    paces_[i]->begin(100);
    paces_[i]->offer(trees_[i]);
  }

  // As in an engine: all decide, the forward, then each reads its answer and wishes for the next.
  void tick(int most) {
    int rows = 0;
    for (size_t i = 0; i < paces_.size(); ++i) {
      trees_[i] = paces_[i]->trim(trees_[i]);
      rows += trees_[i].size();
    }
    const double took = seconds(rows);
    time_ += took;
    cost_.record(rows, 100, took * (0.95 + 0.1 * double(draws_.uniform(0, 1))));
    ++statistics_.ticks;
    statistics_.rows += uint64_t(rows);
    for (size_t i = 0; i < paces_.size(); ++i) {
      Accepted accepted;
      accepted.nodes = {0};
      while (accepted.drafts() < trees_[i].drafted() && draws_.chance(alpha_))
        accepted.nodes.push_back(int(accepted.nodes.size()));
      statistics_.tokens += uint64_t(accepted.drafts() + 1);
      paces_[i]->end(trees_[i].size(), accepted.drafts() + 1);
      acceptances_[i].learn(trees_[i], accepted);
      wish(i, most);
    }
  }

  double forward_, tile_, alpha_;
  engine::CostTable cost_;
  engine::EngineStatistics statistics_;
  Probes probes_;
  Offers offers_;
  std::vector<std::unique_ptr<Pace>> paces_;
  std::vector<Tree> trees_;
  std::deque<Acceptance> acceptances_;  // they do not move
  Draws draws_{7};
  double time_ = 0;
};

// Who decides for itself sees the others' drafts as paid, and the tile that they share as free.
TEST(Pace, AllDraftsOfATickAreDecidedTogether) {
  for (const int requests : {4, 16, 32}) {
    for (const double alpha : {0.05, 0.3, 0.6, 0.9, 0.98}) {
      Crowd crowd(requests, 0.002, 0.003, alpha);
      const double rate = crowd.run(2000, 4);
      EXPECT_GE(rate, 0.985 * crowd.plain()) << requests << ", " << alpha;
    }
  }
  // Sixteen rows fill two tiles. A draft alone begins a third for a sixth of the time and 0.7 of a
  // token; eight fill it for 5.6, which nobody knows before it was tried.
  EXPECT_GE(Crowd(16, 0.004, 0.001, 0.7).run(3000, 1), 1.1 * Crowd(16, 0.004, 0.001, 0).plain());
  // Rows are nearly free. Of 128 none gains a hundredth of all tokens, and all gain half of them.
  EXPECT_GE(Crowd(128, 0.004, 0.000008, 0.5).run(300, 3),
            1.4 * Crowd(128, 0.004, 0.000008, 0).plain());
  // Beside four rows there is room for four drafts.
  EXPECT_GE(Crowd(4, 0.002, 0.003, 0.5).run(3000, 1), 1.35 * Crowd(4, 0.002, 0.003, 0).plain());
}

TEST(Experience, ARequestBeginsWithWhatOthersSawAndGoesItsOwnWay) {
  Experience all({0.5, 0.7});
  for (int request = 0; request < 50; ++request) {
    Acceptance acceptance(all.acceptance);
    for (int i = 0; i < 10; ++i) acceptance.record(0, i == 0);
  }
  Acceptance next(all.acceptance);
  EXPECT_NEAR(next[0], 0.1, 0.05);
  EXPECT_DOUBLE_EQ(next[1], 0.7);  // nobody saw one
  for (int i = 0; i < 30; ++i) next.record(0, true);
  EXPECT_GT(next[0], 0.8);
  EXPECT_LT(all.acceptance[0], 0.3);
}

// One that takes 0.3 of a token's time and promises 0.6 comes to draft, and again after a bad text.
TEST(Experience, WhatADrafterPromisesRisesByItsProbes) {
  Promise promise;
  promise.learn(0.6, true);
  EXPECT_DOUBLE_EQ(promise.tokens(), 0.6);
  for (int i = 0; i < 200; ++i) promise.learn(0.01, false);
  EXPECT_LT(promise.tokens(), 0.05);
  int probes = 0;
  for (; promise.tokens() < 0.3; ++probes) promise.learn(0.6, true);
  EXPECT_LE(probes, 4);
}

TEST(Experience, ProbesAreCountedOverRequests) {
  engine::CostTable cost;
  engine::EngineStatistics statistics;
  for (const int rows : {1, 2, 4}) {
    for (int i = 0; i < 20; ++i) cost.record(rows, 100, 0.004 * rows);
  }
  Probes probes;
  int tried = 0;
  for (int request = 0; request < 100; ++request) {
    Pace pace(cost, statistics, true, &probes);
    for (int i = 0; i < 30; ++i) {
      pace.begin(100);
      tried += pace.probing();
      ++statistics.ticks;
      pace.end(pace.probing() ? 2 : 1, 1);  // nothing stands
    }
  }
  // 16, 32, 64, 128, 256, then every 512 of 3,000 ticks.
  EXPECT_GE(tried, 8);
  EXPECT_LE(tried, 11);
}

// A first forward of two rows that was slow (its memory was new) must not keep drafts away for
// ever.
TEST(Experience, AnUnluckyFirstForwardIsMeasuredAgain) {
  engine::CostTable cost;
  engine::EngineStatistics statistics;
  for (int i = 0; i < 20; ++i) cost.record(1, 100, 0.004);
  cost.record(2, 100, 0.020);
  cost.record(4, 100, 0.022);
  Probes probes;
  int drafts = 0;
  for (int i = 0; i < 4000; ++i) {
    Pace pace(cost, statistics, true, &probes);
    pace.begin(100);
    Tree chain(1);
    for (int d = 0, node = Tree::kRoot; d < 4; ++d) node = chain.add(node, 2 + d, 0, 0.6);
    const int rows = pace.trim(chain).size(), tokens = 1 + (rows > 1 && i % 5 < 3);
    cost.record(rows, 100, 0.004 + 0.0002 * rows);
    ++statistics.ticks;
    statistics.rows += uint64_t(rows);
    statistics.tokens += uint64_t(tokens);
    pace.end(rows, tokens);
    if (i >= 3000) drafts += rows - 1;
  }
  EXPECT_GE(drafts, 2000);
}

TEST(Experience, OneOfThoseThatDecodeSideBySideProbes) {
  engine::CostTable cost;
  engine::EngineStatistics statistics;
  for (const int rows : {1, 16, 32}) {
    for (int i = 0; i < 20; ++i) cost.record(rows, 100, 0.004 * rows);
  }
  constexpr int kRequests = 16;
  Probes probes;
  std::vector<std::unique_ptr<Pace>> paces;
  for (int i = 0; i < kRequests; ++i)
    paces.push_back(std::make_unique<Pace>(cost, statistics, true, &probes));
  int tried = 0;
  for (int tick = 0; tick < 100; ++tick) {
    int now = 0;
    for (const auto& pace : paces) pace->begin(100);
    ++statistics.ticks;
    statistics.rows += kRequests;
    statistics.tokens += kRequests;
    for (const auto& pace : paces) {
      now += pace->probing();
      pace->end(pace->probing() ? 2 : 1, 1);  // nothing stands
    }
    EXPECT_LE(now, 1);
    tried += now;
  }
  EXPECT_EQ(tried, 2);  // after 16 ticks and 32 more
}

TEST(Experience, AProbeThatFoundNothingToTryIsMadeUpFor) {
  engine::CostTable cost;
  engine::EngineStatistics statistics;
  for (int i = 0; i < 20; ++i) cost.record(1, 100, 0.004);
  Pace pace(cost, statistics, true);
  int begun = 0;
  for (int i = 0; i < 40; ++i) {
    pace.begin(100);
    begun += pace.probing();
    ++statistics.ticks;
    pace.end(1, 1);
  }
  EXPECT_EQ(begun, 40 - 16);
}

}  // namespace
}  // namespace tutti::decode::speculative
