#include "decode/grammar_constraint.h"

#include <gtest/gtest.h>

#include <regex>

#include "base/error.h"
#include "decode/tiny_text.h"

namespace tutti::decode {
namespace {

std::shared_ptr<const Constraint> of(const text::GrammarSource& source, const TinyWorld& world) {
  return grammar_constraint(source, text::TokenTree::of(world.tokenizer, kTinyVocab));
}

// Whatever the model would rather say, and by whichever method.
TEST(GrammarConstraint, TextsAreOfTheLanguage) {
  TinyWorld world;
  const std::string pattern = "(th|he|[a-c]{2})+(en)?z";
  const std::regex expected(pattern);
  for (const char* method : {"plain", "lookup", "early-exit"}) {
    int whole = 0;
    for (uint64_t seed = 0; seed < 12; ++seed) {
      GenerationOptions o;
      o.method = method;
      o.seed = seed;
      o.max_tokens = 40;
      o.sampling.temperature = 1.0f;
      o.constraint = of({text::GrammarSource::kRegex, pattern, {}}, world);
      const auto done = world.run(tiny_prompt(uint32_t(seed), 9), o);
      ASSERT_FALSE(done.error);
      const Completion& c = done.completions[0];
      if (c.finish == Finish::kStop) {
        EXPECT_TRUE(std::regex_match(c.text, expected)) << method << ": " << c.text;
        ++whole;
      } else {
        // The beginning of one.
        EXPECT_TRUE(std::regex_match(c.text, std::regex("(th|he|[a-c]{2})*([thabc]|e?n?|en)z?")))
            << method << ": " << c.text;
      }
    }
    EXPECT_GT(whole, 0) << method;
  }
}

TEST(GrammarConstraint, SamplesShareItAndEndsAreWhereTheyMayBe) {
  TinyWorld world;
  const auto constraint = of({text::GrammarSource::kChoice, "", {"the", "there", "a"}}, world);
  GenerationOptions o;
  o.n = 8;
  o.seed = 5;
  o.sampling.temperature = 1.5f;
  o.max_tokens = 20;
  o.constraint = constraint;
  const auto done = world.run(tiny_prompt(1, 5), o);
  ASSERT_FALSE(done.error);
  for (const Completion& c : done.completions) {
    EXPECT_EQ(c.finish, Finish::kStop);
    EXPECT_TRUE(c.text == "the" || c.text == "there" || c.text == "a") << c.text;
  }
  EXPECT_GT(places_kept(*constraint), 3);
  EXPECT_THROW(of({text::GrammarSource::kChoice, "", {}}, world), Error);
}

}  // namespace
}  // namespace tutti::decode
