// Traces: the laws of made ones, and files that are not what they should be.
#include "eval/traffic/trace.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/error.h"

namespace tutti::eval {
namespace {

TEST(Trace, ConstantIntervals) {
  ArrivalOptions o;
  o.requests = 5;
  o.interval = 0.5;
  o.prompt_tokens = {3, 3};
  o.output_tokens = {7, 7};
  const Trace trace = make_trace(o, 50);
  ASSERT_EQ(trace.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(trace[i].arrival, 0.5 * double(i));
    EXPECT_EQ(trace[i].prompt.size(), 3u);
    EXPECT_EQ(trace[i].output_tokens, 7);
    EXPECT_TRUE(trace[i].sampling.greedy());
    EXPECT_LT(trace[i].cancel_after, 0);
  }
  EXPECT_NE(trace[0].prompt, trace[1].prompt);
}

TEST(Trace, BurstsComeAtTheSamePaceTogether) {
  ArrivalOptions o;
  o.requests = 10;
  o.process = ArrivalOptions::kBursts;
  o.interval = 0.5;
  o.burst = 4;
  const Trace trace = make_trace(o, 50);
  for (size_t i = 0; i < trace.size(); ++i) EXPECT_EQ(trace[i].arrival, 2.0 * double(i / 4));
}

TEST(Trace, LongPromptsAreAShare) {
  ArrivalOptions o;
  o.requests = 2000;
  const Trace before = make_trace(o, 50);
  o.long_share = 0.1;
  o.long_prompt_tokens = {100, 200};
  const Trace trace = make_trace(o, 50);
  int longs = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    longs += trace[i].is_long ? 1 : 0;
    EXPECT_EQ(trace[i].is_long, trace[i].prompt.size() >= 100);
    EXPECT_LE(trace[i].prompt.size(), 200u);
    if (!trace[i].is_long) EXPECT_EQ(trace[i].prompt, before[i].prompt);
  }
  EXPECT_NEAR(longs, 200, 40);  // three deviations
  o.long_share = 1.5;
  EXPECT_THROW(make_trace(o, 50), Error);
}

TEST(Trace, PoissonGapsAreExponentialAndLengthsUniform) {
  ArrivalOptions o;
  o.requests = 20000;
  o.process = ArrivalOptions::kPoisson;
  o.interval = 0.2;
  o.prompt_tokens = {1, 4};
  o.output_tokens = {10, 19};
  o.sampled_share = 0.25;
  o.cancelled_share = 0.3;
  o.cancel_within = 2;
  const Trace trace = make_trace(o, 50);
  double sum = 0, squares = 0, above = 0, sampled = 0, cancelled = 0, patience = 0;
  std::vector<int> prompts(5), outputs(20);
  std::set<uint64_t> seeds;
  for (size_t i = 0; i < trace.size(); ++i) {
    if (i > 0) {
      const double gap = trace[i].arrival - trace[i - 1].arrival;
      ASSERT_GE(gap, 0);
      sum += gap;
      squares += gap * gap;
      above += gap > 0.2 ? 1 : 0;
    }
    ++prompts.at(trace[i].prompt.size());
    ++outputs.at(size_t(trace[i].output_tokens));
    for (const int32_t id : trace[i].prompt) ASSERT_TRUE(id >= 0 && id < 50);
    if (!trace[i].sampling.greedy()) {
      ++sampled;
      seeds.insert(trace[i].seed);
    }
    if (trace[i].cancel_after >= 0) {
      ++cancelled;
      patience += trace[i].cancel_after;
    }
  }
  const double n = double(trace.size() - 1);
  // Within five standard errors of the exponential law's moments and tail.
  EXPECT_NEAR(sum / n, 0.2, 5 * 0.2 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 2 * 0.04, 5 * std::sqrt(20.0) * 0.04 / std::sqrt(n));
  EXPECT_NEAR(above / n, std::exp(-1.0), 5 * 0.49 / std::sqrt(n));
  for (int x = 1; x <= 4; ++x) EXPECT_NEAR(prompts[size_t(x)] / n, 0.25, 0.02);
  for (int x = 10; x <= 19; ++x) EXPECT_NEAR(outputs[size_t(x)] / n, 0.1, 0.015);
  EXPECT_NEAR(sampled / n, 0.25, 0.02);
  EXPECT_EQ(double(seeds.size()), sampled);  // a seed each
  EXPECT_NEAR(cancelled / n, 0.3, 0.02);
  EXPECT_NEAR(patience / cancelled, 1.0, 0.05);
}

TEST(Trace, ASeedReproduces) {
  ArrivalOptions o;
  o.process = ArrivalOptions::kPoisson;
  o.interval = 1;
  o.output_tokens = {1, 100};
  const Trace a = make_trace(o, 96), b = make_trace(o, 96);
  o.seed = 2;
  const Trace c = make_trace(o, 96);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].arrival, b[i].arrival);
    EXPECT_EQ(a[i].prompt, b[i].prompt);
    EXPECT_EQ(a[i].output_tokens, b[i].output_tokens);
  }
  EXPECT_NE(a[1].arrival, c[1].arrival);
  EXPECT_NE(a[0].prompt, c[0].prompt);
}

std::string refusal(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "";
}

TEST(Trace, OptionsThatMakeNoSense) {
  const auto made = [](auto change) {
    ArrivalOptions o;
    change(o);
    return refusal([&] { make_trace(o, 96); });
  };
  EXPECT_NE(made([](auto& o) { o.requests = 0; }), "");
  EXPECT_NE(made([](auto& o) { o.interval = -1; }), "");
  EXPECT_NE(made([](auto& o) { o.interval = std::nan(""); }), "");
  EXPECT_NE(made([](auto& o) { o.prompt_tokens = {0, 3}; }), "");
  EXPECT_NE(made([](auto& o) { o.output_tokens = {4, 3}; }), "");
  EXPECT_NE(made([](auto& o) { o.sampled_share = 1.5; }), "");
  EXPECT_NE(made([](auto& o) { o.cancelled_share = -0.1; }), "");
  for (const char* bad : {"", "0", "a", "3-", "-3", "5-4", "1-2-3", "1.5", "99999999999", "3 "}) {
    EXPECT_NE(refusal([&] { parse_between(bad, "--lengths"); }).find("--lengths"),
              std::string::npos)
        << bad;
  }
  EXPECT_EQ(parse_between("7", "x").high, 7);
  EXPECT_EQ(parse_between("7-90", "x").low, 7);
  EXPECT_EQ(parse_between("7-90", "x").high, 90);
}

TraceDefaults defaults() {
  TraceDefaults d;
  d.vocab = 96;
  d.encode = [](const std::string& text) { return std::vector<int32_t>(text.size(), 5); };
  return d;
}

TEST(Trace, FilesAreReadAndSorted) {
  const Trace trace = parse_trace(
      "# a comment\n"
      "{\"arrival\": 2, \"ids\": [1, 95], \"output_tokens\": 3, \"ignore_eos\": true}\r\n"
      "\n"
      "{\"arrival\": 0.5, \"prompt\": \"abc\", \"output_tokens\": 4, \"temp\": 0.5, \"seed\": "
      "18446744073709551615, "
      "\"top_k\": 7, \"top_p\": 0.9, \"min_p\": 0.1, \"repeat_penalty\": 1.1, "
      "\"presence_penalty\": 0.2, "
      "\"frequency_penalty\": 0.3, \"cancel_after\": 1.5}\n"
      "{\"arrival\": 0.5, \"prompt_tokens\": 9, \"output_tokens\": 1}",
      "file", defaults());
  ASSERT_EQ(trace.size(), 3u);
  EXPECT_EQ(trace[0].prompt, (std::vector<int32_t>{5, 5, 5}));
  EXPECT_EQ(trace[0].sampling.temperature, 0.5f);
  EXPECT_EQ(trace[0].seed, UINT64_MAX);
  EXPECT_EQ(trace[0].sampling.top_k, 7);
  EXPECT_EQ(trace[0].sampling.top_p, 0.9f);
  EXPECT_EQ(trace[0].sampling.min_p, 0.1f);
  EXPECT_EQ(trace[0].sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(trace[0].sampling.presence_penalty, 0.2f);
  EXPECT_EQ(trace[0].sampling.frequency_penalty, 0.3f);
  EXPECT_EQ(trace[0].cancel_after, 1.5);
  EXPECT_FALSE(trace[0].ignore_eos);
  EXPECT_EQ(trace[1].prompt.size(), 9u);
  EXPECT_EQ(trace[1].arrival, 0.5);
  EXPECT_EQ(trace[2].prompt, (std::vector<int32_t>{1, 95}));
  EXPECT_TRUE(trace[2].ignore_eos);
  EXPECT_TRUE(trace[2].sampling.greedy());
}

TEST(Trace, MalformedFilesNameTheLineAndTheFix) {
  const std::string good = "{\"arrival\": 0, \"prompt_tokens\": 1, \"output_tokens\": 1}";
  const std::pair<const char*, const char*> cases[] = {
      {"{", ""},
      {"[1]", "no object"},
      {"{\"arrival\": 0, \"arrival\": 1, \"prompt_tokens\": 1, \"output_tokens\": 1}", "arrival"},
      {"{\"prompt_tokens\": 1, \"output_tokens\": 1}", "arrival"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1}", "output_tokens"},
      {"{\"arrival\": 0, \"output_tokens\": 1}", "prompt_tokens"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1, \"ids\": [1], \"output_tokens\": 1}", "one of"},
      {"{\"arrival\": -1, \"prompt_tokens\": 1, \"output_tokens\": 1}", "seconds"},
      {"{\"arrival\": \"0\", \"prompt_tokens\": 1, \"output_tokens\": 1}", "seconds"},
      {"{\"arrival\": 1e99, \"prompt_tokens\": 1, \"output_tokens\": 1}", "seconds"},
      {"{\"arrival\": 0, \"prompt_tokens\": 0, \"output_tokens\": 1}", "whole number"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1.5, \"output_tokens\": 1}", "whole number"},
      {"{\"arrival\": 0, \"prompt_tokens\": 99999999999, \"output_tokens\": 1}", "whole number"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1, \"output_tokens\": -1}", "whole number"},
      {"{\"arrival\": 0, \"ids\": [], \"output_tokens\": 1}", "token ids"},
      {"{\"arrival\": 0, \"ids\": [96], \"output_tokens\": 1}", "below 96"},
      {"{\"arrival\": 0, \"ids\": [-1], \"output_tokens\": 1}", "below 96"},
      {"{\"arrival\": 0, \"prompt\": 5, \"output_tokens\": 1}", "string"},
      {"{\"arrival\": 0, \"prompt\": \"\", \"output_tokens\": 1}", "empty"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1, \"output_tokens\": 1, \"temp\": -1}", "temperature"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1, \"output_tokens\": 1, \"temp\": \"x\"}", "number"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1, \"output_tokens\": 1, \"top_k\": -1}", "top_k"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1, \"output_tokens\": 1, \"seed\": -5}", "seed"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1, \"output_tokens\": 1, \"cancel_after\": -1}",
       "cancel_after"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1, \"output_tokens\": 1, \"ignore_eos\": 1}",
       "true or false"},
      {"{\"arrival\": 0, \"prompt_tokens\": 1, \"output_tokens\": 1, \"temprature\": 1}",
       "temprature"},
  };
  for (const auto& [line, words] : cases) {
    const std::string what =
        refusal([&] { parse_trace(good + "\n" + line + "\n" + good, "my.jsonl", defaults()); });
    EXPECT_NE(what.find("my.jsonl, line 2: "), std::string::npos) << line << ": " << what;
    EXPECT_NE(what.find(words), std::string::npos) << line << ": " << what;
  }
  EXPECT_NE(
      refusal([&] { parse_trace("\n# nothing\n", "my.jsonl", defaults()); }).find("no requests"),
      std::string::npos);
  TraceDefaults no_texts = defaults();
  no_texts.encode = {};
  EXPECT_NE(refusal([&] {
              parse_trace("{\"arrival\": 0, \"prompt\": \"a\", \"output_tokens\": 1}", "my.jsonl",
                          no_texts);
            }).find("ids"),
            std::string::npos);
}

}  // namespace
}  // namespace tutti::eval
