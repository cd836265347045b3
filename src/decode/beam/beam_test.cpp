// Beam search against enumeration of every sequence, and against a second implementation that looks
// at all tokens of all beams in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "decode/tiny_text.h"

namespace tutti::decode {
namespace {

using Ids = std::vector<int32_t>;

struct Found {
  Ids ids;
  double score = 0;
  bool ended = false;
};

class BeamSearch : public testing::Test {
 protected:
  // A dozen end tokens, so that ends are met often, also several at once.
  BeamSearch() {
    for (int32_t id = 40; id < 50; ++id) world_.tokenizer.add_end_id(id);
  }

  // Log-softmax in double of the logits after prompt + prefix.
  const std::vector<double>& log_probabilities(const Ids& prefix) {
    auto& entry = table_[prefix];
    if (entry.empty()) {
      Ids all = prompt_;
      all.insert(all.end(), prefix.begin(), prefix.end());
      const std::vector<float> logits = world_.logits_after(all);
      double most = -1e300, sum = 0;
      for (const float l : logits) most = std::max(most, double(l));
      for (const float l : logits) sum += std::exp(double(l) - most);
      for (const float l : logits) entry.push_back(double(l) - most - std::log(sum));
    }
    return entry;
  }

  bool is_end(int32_t id) const { return !ignore_eos_ && world_.tokenizer.is_end(id); }

  static double score(double log_probability, size_t length, double penalty) {
    return log_probability / std::pow(double(length), penalty);
  }

  // The best of all sequences: those of `longest` tokens and the shorter ones that an end token
  // closes.
  Found enumerate(int longest, double penalty) {
    Found best;
    best.score = -1e300;
    const auto offer = [&](const Ids& ids, double log_probability, size_t length, bool ended) {
      const double s = score(log_probability, length, penalty);
      if (s > best.score) best = {ids, s, ended};
    };
    const std::function<void(Ids&, double)> walk = [&](Ids& prefix, double so_far) {
      const std::vector<double> lp = log_probabilities(prefix);
      for (int32_t id = 0; id < kTinyVocab; ++id) {
        const double next = so_far + lp[size_t(id)];
        if (is_end(id)) {
          offer(prefix, next, prefix.size() + 1, true);
          continue;
        }
        prefix.push_back(id);
        if (int(prefix.size()) == longest) {
          offer(prefix, next, prefix.size(), false);
        } else {
          walk(prefix, next);
        }
        prefix.pop_back();
      }
    };
    Ids prefix;
    walk(prefix, 0);
    return best;
  }

  // Beam search from its definition, over every token of every beam.
  Found reference(int width, double penalty, bool exact, int longest) {
    std::vector<std::pair<Ids, double>> open{{{}, 0.0}};
    std::vector<Found> done;
    for (int step = 0; step < longest && !open.empty(); ++step) {
      std::vector<std::tuple<double, size_t, int32_t>> all;
      for (size_t b = 0; b < open.size(); ++b) {
        const auto& lp = log_probabilities(open[b].first);
        for (int32_t id = 0; id < kTinyVocab; ++id)
          all.emplace_back(open[b].second + lp[size_t(id)], b, id);
      }
      std::sort(all.begin(), all.end(),
                [](const auto& a, const auto& b) { return std::get<0>(a) > std::get<0>(b); });
      std::vector<std::pair<Ids, double>> next;
      for (const auto& [lp, b, id] : all) {
        if (int(next.size()) == width) break;
        if (is_end(id)) {
          done.push_back({open[b].first, score(lp, open[b].first.size() + 1, penalty), true});
        } else {
          next.emplace_back(open[b].first, lp);
          next.back().first.push_back(id);
        }
      }
      open = std::move(next);
      std::sort(done.begin(), done.end(),
                [](const Found& a, const Found& b) { return a.score > b.score; });
      if (int(done.size()) > width) done.resize(size_t(width));
      if (open.empty() || step + 1 == longest) break;
      if (!exact && int(done.size()) == width &&
          score(open.front().second, open.front().first.size(), penalty) <= done.back().score) {
        open.clear();
      }
      // An exact search may go on to the end: stopping early must not change its answer.
    }
    for (const auto& [ids, lp] : open) done.push_back({ids, score(lp, ids.size(), penalty), false});
    return *std::max_element(done.begin(), done.end(),
                             [](const Found& a, const Found& b) { return a.score < b.score; });
  }

  Outcome search(int width, double penalty, bool exact, int longest) {
    GenerationOptions options;
    options.method = "beam";
    options.max_tokens = longest;
    options.ignore_eos = ignore_eos_;
    options.method_options = {{"width", std::to_string(width)},
                              {"length_penalty", std::to_string(penalty)},
                              {"exact_stop", exact ? "1" : "0"}};
    return world_.run(prompt_, options);
  }

  void expect_found(const Found& expected, const Outcome& got, const std::string& what) {
    const Completion& c = got.completions.front();
    EXPECT_EQ(c.ids, expected.ids) << what;
    EXPECT_NEAR(c.score, expected.score, 1e-4 * std::max(1.0, std::fabs(expected.score))) << what;
    EXPECT_EQ(c.finish, expected.ended ? Finish::kStop : Finish::kLength) << what;
    EXPECT_EQ(c.text, world_.tokenizer.decode(expected.ids, true)) << what;
  }

  TinyWorld world_;
  Ids prompt_ = tiny_prompt(3, 11);
  bool ignore_eos_ = false;
  std::map<Ids, std::vector<double>> table_;
};

TEST_F(BeamSearch, AWideBeamFindsTheBestOfAllSequences) {
  for (const uint32_t prompt : {3u, 8u}) {
    prompt_ = tiny_prompt(prompt, 11);
    table_.clear();
    for (const double penalty : {0.0, 0.7, 1.0, 2.0, -1.0}) {
      for (const int longest : {1, 2}) {
        const std::string what = "prompt " + std::to_string(prompt) + ", penalty " +
                                 std::to_string(penalty) + ", length " + std::to_string(longest);
        expect_found(enumerate(longest, penalty), search(64, penalty, true, longest), what);
      }
    }
  }
}

TEST_F(BeamSearch, NarrowBeamsAreTheDefinition) {
  int ended = 0, differ = 0;
  for (const bool ignore : {false, true}) {
    ignore_eos_ = ignore;
    for (const uint32_t prompt : {3u, 4u, 5u, 6u, 7u, 8u, 9u, 10u}) {
      prompt_ = tiny_prompt(prompt, 11);
      table_.clear();
      for (const int width : {1, 2, 3, 5}) {
        for (const double penalty : {0.0, 1.0, 2.5, -0.5}) {
          const Found quick = reference(width, penalty, false, 9),
                      exact = reference(width, penalty, true, 9);
          const std::string what = "prompt " + std::to_string(prompt) + ", width " +
                                   std::to_string(width) + ", penalty " + std::to_string(penalty) +
                                   (ignore ? ", ends ignored" : "");
          expect_found(quick, search(width, penalty, false, 9), what);
          expect_found(exact, search(width, penalty, true, 9), what + ", exact");
          ended += quick.ended;
          differ += quick.ids != exact.ids;
        }
      }
    }
  }
  EXPECT_GT(ended, 5);   // else end tokens were not tested
  EXPECT_GT(differ, 0);  // else the two stopping rules were not told apart
}

TEST_F(BeamSearch, WidthOneIsGreedyUpToTheEnd) {
  ignore_eos_ = true;
  GenerationOptions greedy;
  greedy.ignore_eos = true;
  greedy.max_tokens = 40;
  EXPECT_EQ(search(1, 1.0, false, 40).completions.front().ids,
            world_.run(prompt_, greedy).completions.front().ids);
}

TEST_F(BeamSearch, OneForwardPerStepAndSharedPages) {
  ignore_eos_ = true;
  prompt_ = tiny_prompt(9, 70);
  int most = 0;
  world_.engine.on_tick([&](const engine::TickReport&) {
    most = std::max(most, world_.engine.pages().total() - world_.engine.pages().free());
  });
  const Outcome out = search(4, 1.0, false, 64);
  EXPECT_EQ(out.statistics.forwards, 64u);
  EXPECT_EQ(out.statistics.rows, 70u + 63u * 4u);
  EXPECT_LT(most, 100);
  most = 0;
  search(1, 1.0, false, 64);
  EXPECT_EQ(most, 5);  // 70 + 63 slots: an only child goes on in its parent's pages
  EXPECT_EQ(world_.engine.pages().free(), world_.engine.pages().total());
}

TEST_F(BeamSearch, LogProbabilitiesAreThoseOfTheModel) {
  GenerationOptions options;
  options.method = "beam";
  options.max_tokens = 6;
  options.sampling.logprobs = 0;
  const Completion c = world_.run(prompt_, options).completions.front();
  ASSERT_EQ(c.picked.size(), c.ids.size());
  ASSERT_FALSE(c.ids.empty());
  Ids prefix;
  for (size_t i = 0; i < c.ids.size(); ++i) {
    EXPECT_EQ(c.picked[i].token, c.ids[i]);
    EXPECT_NEAR(c.picked[i].raw_log_probability, log_probabilities(prefix)[size_t(c.ids[i])], 1e-4);
    prefix.push_back(c.ids[i]);
  }
}

TEST_F(BeamSearch, RefusesWhatItWouldIgnore) {
  const auto refused = [&](const std::function<void(GenerationOptions&)>& set) {
    GenerationOptions options;
    options.method = "beam";
    options.max_tokens = 3;
    set(options);
    try {
      world_.run(prompt_, options);
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  EXPECT_TRUE(refused([](auto& o) { o.sampling.temperature = 0.5f; }));
  EXPECT_TRUE(refused([](auto& o) { o.sampling.repetition_penalty = 1.1f; }));
  EXPECT_TRUE(refused([](auto& o) { o.sampling.logit_bias = {{5, 1.0f}}; }));
  EXPECT_TRUE(refused([](auto& o) { o.n = 2; }));
  EXPECT_TRUE(refused([](auto& o) { o.method_options["width"] = "0"; }));
  EXPECT_TRUE(refused([](auto& o) { o.method_options["width"] = "2.5"; }));
  EXPECT_TRUE(refused([](auto& o) { o.method_options["width"] = "four"; }));
  EXPECT_TRUE(refused([](auto& o) { o.method_options["length_penalty"] = "nan"; }));
  EXPECT_TRUE(refused([](auto& o) { o.method_options["wdith"] = "4"; }));
  EXPECT_FALSE(refused([](auto&) {}));
}

}  // namespace
}  // namespace tutti::decode
