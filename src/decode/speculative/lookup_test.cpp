// Lookup gives the text of plain decoding, whatever is asked for and whatever it drafts; and it
// drafts what comes.
#include "decode/speculative/lookup.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "decode/speculative/lossless.h"

namespace tutti::decode {
namespace {

using speculative::echoing_prompt;
using speculative::expect_same;
using Options = std::map<std::string, std::string>;

std::vector<TinyWorld::Job> jobs_of(int count, float temperature, int tokens) {
  return speculative::endless_jobs(count, temperature, tokens,
                                   [](int i) { return echoing_prompt(uint32_t(i), 8 + i % 40); });
}

void use(std::vector<TinyWorld::Job>& jobs, const Options& options) {
  for (auto& job : jobs) {
    job.options.method = "lookup";
    job.options.method_options = options;
  }
}

TEST(Lookup, TextOfFiftyPromptsIsThatOfPlain) {
  for (const float temperature : {0.0f, 0.8f}) {
    TinyWorld world;
    auto jobs = jobs_of(50, temperature, 64);
    const auto plain = speculative::run_plain(world, jobs);
    for (const Options& options :
         {Options{}, Options{{"adaptive", "0"}},
          Options{{"adaptive", "0"}, {"branches", "4"}, {"draft_max", "5"}}}) {
      use(jobs, options);
      const auto got = world.run(jobs);
      for (size_t i = 0; i < jobs.size(); ++i)
        expect_same(plain[i], got[i], "prompt " + std::to_string(i));
      const MethodStatistics sum = speculative::total(got);
      if (!options.contains("adaptive")) continue;  // how much it drafts then depends on the clock
      EXPECT_GT(sum.proposed, 100u);
      EXPECT_GT(sum.accepted, temperature == 0 ? 500u : 3u);  // else nothing was verified
    }
    EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
  }
}

TEST(Lookup, EveryOptionOfARequestGivesTheSameAsPlain) {
  const speculative::Stood stood =
      speculative::expect_same_for_every_option(77, 12, 50, [&](TinyWorld&, Draws& draws) {
        return [&draws](TinyWorld::Job& job) {
          job.options.method = draws.chance(0.1) ? "plain" : "lookup";
          if (job.options.method == "plain") return;
          auto& o = job.options.method_options;
          o["adaptive"] = draws.chance(0.5) ? "1" : "0";
          o["draft_max"] = std::to_string(1 + draws.below(12));
          o["branches"] = std::to_string(1 + draws.below(5));
          o["prompt_lookup_min"] = std::to_string(1 + draws.below(3));
          if (draws.chance(0.3)) o["prompt_lookup_max"] = std::to_string(3 + draws.below(3));
          if (draws.chance(0.2)) o["draft_min"] = "1";
        };
      });
  EXPECT_GT(stood.all, 500u);
  EXPECT_GT(stood.constrained, 50u);
}

TEST(Lookup, ATextThatRepeatsItselfTakesFewForwards) {
  // Only one token is allowed at each place: a cycle of five.
  class Cycle final : public Constraint {
   public:
    explicit Cycle(int at) : at_(at), set_(std::make_shared<std::vector<uint64_t>>(2, 0)) {
      (*set_)[0] |= uint64_t(1) << (40 + at);
    }
    std::shared_ptr<const std::vector<uint64_t>> allowed() const override { return set_; }
    std::shared_ptr<const Constraint> after(int32_t token) const override {
      return token == 40 + at_ ? std::make_shared<Cycle>((at_ + 1) % 5) : nullptr;
    }

   private:
    int at_;
    std::shared_ptr<std::vector<uint64_t>> set_;
  };
  TinyWorld world;
  GenerationOptions o;
  o.max_tokens = 101;
  o.constraint = std::make_shared<Cycle>(0);
  o.method = "lookup";
  o.method_options = {{"adaptive", "0"}, {"draft_max", "9"}};
  const Outcome out = world.run({40, 41, 42, 43, 44, 40, 41, 42, 43, 44}, o);
  const Completion& c = out.completions.front();
  ASSERT_EQ(c.ids.size(), 101u);
  // The prompt's forward gives one token, each of the others ten.
  EXPECT_EQ(c.statistics.forwards, 11u);
  EXPECT_EQ(c.statistics.proposed, 90u);
  EXPECT_EQ(c.statistics.accepted, 90u);
  EXPECT_EQ(c.statistics.drafted_at, std::vector<uint64_t>(9, 10));
  EXPECT_EQ(c.statistics.accepted_at, std::vector<uint64_t>(9, 10));
  EXPECT_EQ(out.statistics.forwards, 11u);
  EXPECT_EQ(out.statistics.rows, 10u + 10u * 10u);
}

TEST(Lookup, RefusesOptionsThatContradictEachOther) {
  TinyWorld world;
  const auto refused = [&](const Options& options) {
    GenerationOptions o;
    o.method = "lookup";
    o.max_tokens = 2;
    o.method_options = options;
    try {
      world.run(tiny_prompt(1, 5), o);
    } catch (const Error& e) {
      return e.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  EXPECT_TRUE(refused({{"draft_max", "0"}}));
  EXPECT_TRUE(refused({{"draft_max", "4"}, {"draft_min", "5"}}));
  EXPECT_TRUE(refused({{"prompt_lookup_min", "4"}, {"prompt_lookup_max", "2"}}));
  EXPECT_TRUE(refused({{"branches", "0"}}));
  EXPECT_TRUE(refused({{"verify", "maybe"}}));
  EXPECT_TRUE(refused({{"adaptive", "2"}}));
  EXPECT_FALSE(refused({}));
}

}  // namespace
}  // namespace tutti::decode
