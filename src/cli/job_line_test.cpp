#include "cli/job_line.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace tutti::cli {
namespace {

decode::GenerationOptions defaults() {
  decode::GenerationOptions d;
  d.seed = 5;
  d.max_tokens = 10;
  d.method = "beam";
  d.method_options["width"] = "3";
  d.sampling.temperature = 0.5f;
  return d;
}

// The message of the Error, or "" when the line is taken.
std::string problem(std::string_view line) {
  try {
    parse_job_line(line, defaults());
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
}

TEST(JobLine, DefaultsAreTheCommandLines) {
  const JobLine job = parse_job_line(R"({"prompt": "hé\u0000"})", defaults());
  EXPECT_EQ(job.prompt, std::string("h\xC3\xA9\0", 4));
  EXPECT_FALSE(job.messages);
  EXPECT_FALSE(job.raw);
  EXPECT_FALSE(job.system);
  EXPECT_TRUE(job.id.is_null());
  EXPECT_TRUE(job.unknown.empty());
  EXPECT_EQ(job.options.seed, 5u);
  EXPECT_EQ(job.options.max_tokens, 10);
  EXPECT_EQ(job.options.method, "beam");
  EXPECT_EQ(job.options.method_options.at("width"), "3");
  EXPECT_EQ(job.options.sampling.temperature, 0.5f);
  // null leaves an option as it is.
  const JobLine same = parse_job_line(
      R"({"prompt": "", "n": null, "seed": null, "method": null, "options": null})", defaults());
  EXPECT_EQ(same.options.max_tokens, 10);
  EXPECT_EQ(same.options.seed, 5u);
  EXPECT_EQ(same.options.method_options.at("width"), "3");
}

TEST(JobLine, EveryOption) {
  const JobLine job = parse_job_line(
      R"({"messages": [{"role": "user", "content": "x"}], "id": {"a": 1}, "seed": 18446744073709551615, "n": 7,
          "temp": 1, "top_k": 4, "top_p": 0.5, "min_p": 0.25, "typical": 0.75, "repeat_penalty": 1.5,
          "repeat_last_n": 9, "presence_penalty": 0.125, "frequency_penalty": -0.5, "logit_bias": {"42": -1.5},
          "samplers": "top_k;temperature;bias", "logprobs": 3, "stop": ["a", "b"], "ignore_eos": true, "samples": 2,
          "method": "plain", "options": {"k": 5, "s": "t"}, "raw": true, "system": "be brief", "bogus": 1})",
      defaults());
  ASSERT_TRUE(job.messages);
  EXPECT_EQ(job.messages->at(0).at("content"), "x");
  EXPECT_EQ(job.id.dump(), R"({"a":1})");
  EXPECT_EQ(job.options.seed, UINT64_MAX);
  EXPECT_EQ(job.options.max_tokens, 7);
  EXPECT_EQ(job.options.n, 2);
  const engine::Sampling& s = job.options.sampling;
  EXPECT_EQ(s.temperature, 1.0f);
  EXPECT_EQ(s.top_k, 4);
  EXPECT_EQ(s.top_p, 0.5f);
  EXPECT_EQ(s.min_p, 0.25f);
  EXPECT_EQ(s.typical_p, 0.75f);
  EXPECT_EQ(s.repetition_penalty, 1.5f);
  EXPECT_EQ(s.penalty_window, 9);
  EXPECT_EQ(s.presence_penalty, 0.125f);
  EXPECT_EQ(s.frequency_penalty, -0.5f);
  EXPECT_EQ(s.logit_bias, (std::vector<std::pair<int32_t, float>>{{42, -1.5f}}));
  EXPECT_EQ(engine::print_order(s.order), "top_k;temperature;bias");
  EXPECT_EQ(s.logprobs, 3);
  EXPECT_EQ(job.options.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(job.options.ignore_eos);
  EXPECT_EQ(job.options.method, "plain");
  // Those of the default's method went with it.
  EXPECT_EQ(job.options.method_options,
            (std::map<std::string, std::string>{{"k", "5"}, {"s", "t"}}));
  EXPECT_EQ(job.raw, true);
  EXPECT_EQ(job.system, "be brief");
  EXPECT_EQ(job.unknown, std::vector<std::string>{"bogus"});
}

TEST(JobLine, OtherNamesAndForms) {
  const JobLine job = parse_job_line(
      R"({"prompt": "x", "max_tokens": 3, "temperature": 0.25, "typical_p": 0.5, "repetition_penalty": 2, "stop": "e",
          "seed": -1, "options": {"length_penalty": 0.5}})",
      defaults());
  EXPECT_EQ(job.options.max_tokens, 3);
  EXPECT_EQ(job.options.sampling.temperature, 0.25f);
  EXPECT_EQ(job.options.sampling.typical_p, 0.5f);
  EXPECT_EQ(job.options.sampling.repetition_penalty, 2.0f);
  EXPECT_EQ(job.options.stop, std::vector<std::string>{"e"});
  EXPECT_FALSE(job.options.seed);
  // The same method: its options of the command line stay, and the line adds to them.
  EXPECT_EQ(job.options.method_options.at("width"), "3");
  EXPECT_EQ(job.options.method_options.at("length_penalty"), "0.5");
}

TEST(JobLine, MistakesAreNamed) {
  const std::pair<const char*, const char*> kCases[] = {
      {"", "is not JSON"},
      {"{\"prompt\": \"x\"", "is not JSON"},
      {"{\"prompt\": \"x\"} {}", "is not JSON"},
      {"{\"prompt\": \"\xFF\"}", "is not JSON"},
      {"[1]", "no JSON object"},
      {"\"text\"", "no JSON object"},
      {"{}", "neither"},
      {R"({"prompt": "x", "messages": []})", "both"},
      {R"({"prompt": 5})", "\"prompt\" wants a string"},
      {R"({"prompt": null})", "\"prompt\" wants a string"},
      {R"({"messages": {}})", "\"messages\" wants an array"},
      {R"({"prompt": "x", "n": 1.5})", "\"n\" wants a whole number"},
      {R"({"prompt": "x", "n": "8"})", "\"n\" wants a whole number"},
      {R"({"prompt": "x", "n": true})", "\"n\" wants a whole number"},
      {R"({"prompt": "x", "n": 4294967297})", "\"n\" wants a whole number"},
      {R"({"prompt": "x", "top_k": -9223372036854775808})", "\"top_k\" wants a whole number"},
      {R"({"prompt": "x", "temp": "hot"})", "\"temp\" wants a number"},
      {R"({"prompt": "x", "temp": 1e300})", "\"temp\" wants a number"},
      {R"({"prompt": "x", "seed": -2})", "\"seed\" wants"},
      {R"({"prompt": "x", "seed": 0.5})", "\"seed\" wants"},
      {R"({"prompt": "x", "stop": [1]})", "\"stop\" wants a string"},
      {R"({"prompt": "x", "stop": {}})", "\"stop\" wants"},
      {R"({"prompt": "x", "logit_bias": [1]})", "\"logit_bias\" wants"},
      {R"({"prompt": "x", "logit_bias": {"a": 1}})", "\"logit_bias\" wants"},
      {R"({"prompt": "x", "logit_bias": {"1": "b"}})", "\"logit_bias\" wants"},
      {R"({"prompt": "x", "ignore_eos": 1})", "\"ignore_eos\" wants true or false"},
      {R"({"prompt": "x", "method": 1})", "\"method\" wants a string"},
      {R"({"prompt": "x", "options": []})", "\"options\" wants an object"},
      {R"({"prompt": "x", "samplers": "top_k;none"})", "unknown rule 'none'"},
  };
  for (const auto& [line, what] : kCases) {
    const std::string said = problem(line);
    EXPECT_NE(said.find(what), std::string::npos) << line << "\nsaid: " << said;
    EXPECT_EQ(said.find('\n'), std::string::npos);
    EXPECT_EQ(said.find("json.exception"), std::string::npos) << said;
  }
  EXPECT_EQ(problem(R"({"prompt": ""})"), "");
}

}  // namespace
}  // namespace tutti::cli
