// Requests of a load: what they hold, and that a seed reproduces them.
#include "eval/load/load_plan.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace tutti::eval {
namespace {

using Json = nlohmann::ordered_json;

Json body(const LoadRequest& request) { return Json::parse(request.body); }
std::string prompt(const LoadRequest& request) {
  return body(request)["messages"].back()["content"];
}
int words(const std::string& text) { return 1 + int(std::ranges::count(text, ' ')); }

LoadPlanOptions plan(int requests) {
  LoadPlanOptions o;
  o.arrivals.requests = requests;
  o.arrivals.prompt_tokens = {5, 20};
  o.arrivals.output_tokens = {3, 9};
  return o;
}

LoadForm form() {
  LoadForm f;
  f.model = "m";
  return f;
}

TEST(LoadPlan, draws_what_was_asked_for) {
  const auto load = make_load(plan(200), form(), {});
  std::set<std::string> prompts;
  std::set<int> lengths;
  for (const LoadRequest& r : load) {
    const Json j = body(r);
    prompts.insert(prompt(r));
    lengths.insert(words(prompt(r)));
    EXPECT_EQ(j["model"], "m");
    EXPECT_TRUE(j["stream"] == true && j["ignore_eos"] == true && j["temperature"] == 0);
    EXPECT_EQ(j["stream_options"]["include_usage"], true);
    EXPECT_TRUE(j["max_tokens"] >= 3 && j["max_tokens"] <= 9);
  }
  EXPECT_EQ(*lengths.begin(), 5);
  EXPECT_EQ(*lengths.rbegin(), 20);
  EXPECT_GT(prompts.size(), 198u);
  const auto again = make_load(plan(200), form(), {});
  for (size_t i = 0; i < load.size(); ++i) EXPECT_EQ(load[i].body, again[i].body);
}

TEST(LoadPlan, cuts_prompts_to_tokens_where_they_are_counted) {
  // A tokenizer in which a word of more than four letters is two tokens.
  const CountTokens count = [](const std::string& text) {
    int tokens = 0, letters = 0;
    for (const char c : text + " ") {
      if (c != ' ') {
        ++letters;
        continue;
      }
      tokens += letters > 4 ? 2 : 1;
      letters = 0;
    }
    return tokens;
  };
  const LoadPlanOptions o = plan(50);
  const Trace trace = make_trace(o.arrivals, 1000);
  const auto load = make_load(o, form(), count);
  for (size_t i = 0; i < load.size(); ++i) {
    const int over = int(trace[i].prompt.size()) - count(prompt(load[i]));
    EXPECT_TRUE(over == 0 || over == 1) << over;  // a word more would be two
  }
}

TEST(LoadPlan, shares_prefixes_and_merges_extras) {
  LoadPlanOptions o = plan(6);
  o.shared_prefix_tokens = 30;
  o.prefixes = 2;
  LoadForm f = form();
  f.temperature = 0.5;
  f.extra = Json::parse(R"({"method":"lookup","stream_options":{"x":1},"max_tokens":1})");
  const auto load = make_load(o, f, {});
  const auto start = [&](size_t i) { return prompt(load[i]).substr(0, prompt(load[i]).find('.')); };
  EXPECT_EQ(words(start(0)), 30);
  EXPECT_TRUE(start(0) == start(2) && start(1) == start(5) && start(0) != start(1));
  std::set<uint64_t> seeds;
  for (const LoadRequest& r : load) {
    EXPECT_EQ(body(r)["method"], "lookup");
    EXPECT_EQ(body(r)["max_tokens"], 1);
    EXPECT_EQ(body(r)["stream_options"], Json::parse(R"({"include_usage":true,"x":1})"));
    seeds.insert(body(r)["seed"].get<uint64_t>());
  }
  EXPECT_EQ(seeds.size(), load.size());
}

TEST(LoadPlan, long_prompts_and_cancels_are_a_share) {
  LoadPlanOptions o = plan(1000);
  o.arrivals.long_share = 0.2;
  o.arrivals.long_prompt_tokens = {100, 100};
  o.arrivals.cancelled_share = 0.3;
  o.arrivals.cancel_within = 2;
  int longs = 0, cancels = 0;
  for (const LoadRequest& r : make_load(o, form(), {})) {
    EXPECT_EQ(words(prompt(r)) == 100, r.is_long);
    longs += r.is_long;
    cancels += r.cancel_after >= 0;
    EXPECT_LT(r.cancel_after, 2);
  }
  EXPECT_NEAR(longs, 200, 40);  // three deviations
  EXPECT_NEAR(cancels, 300, 45);
}

TEST(LoadPlan, reads_a_file_and_names_the_line_of_a_mistake) {
  const auto load = read_load(
      "# two\n{\"prompt\": \"a\", \"arrival\": 2, \"output_tokens\": 4, \"cancel_after\": 0.5}\n\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}], \"extra\": {\"n\": 2}, "
      "\"ignore_eos\": false}",
      "f", form(), 7, true);
  ASSERT_EQ(load.size(), 2u);
  EXPECT_EQ(prompt(load[0]), "a");
  EXPECT_EQ(load[0].arrival, 2);
  EXPECT_EQ(load[0].cancel_after, 0.5);
  EXPECT_TRUE(body(load[0])["max_tokens"] == 4 && body(load[1])["max_tokens"] == 7);
  EXPECT_TRUE(body(load[0]).contains("ignore_eos") && !body(load[1]).contains("ignore_eos"));
  EXPECT_EQ(body(load[1])["n"], 2);
  LoadForm completions = form();
  completions.chat = false;
  EXPECT_EQ(body(read_load("{\"prompt\": \"a\"}", "f", completions, 7, true)[0])["prompt"], "a");
  for (const char* bad :
       {"x", "[]", "{}", "{\"prompt\": 1}", "{\"prompt\": \"a\", \"messages\": [{}]}",
        "{\"messages\": []}", "{\"prompt\": \"a\", \"output_tokens\": 0}",
        "{\"prompt\": \"a\", \"arrival\": -1}", "{\"prompt\": \"a\", \"what\": 1}",
        "{\"prompt\": \"a\", \"extra\": 1}", "{\"prompt\": \"a\", \"ignore_eos\": 1}"}) {
    try {
      read_load(std::string("\n") + bad, "f", form(), 1, true);
      FAIL() << bad;
    } catch (const Error& e) {
      EXPECT_TRUE(std::string(e.what()).starts_with("f, line 2: ")) << e.what();
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    }
  }
  EXPECT_THROW(read_load("{\"messages\": [{}]}", "f", completions, 1, true), Error);
  EXPECT_THROW(read_load("# nothing\n", "f", form(), 1, true), Error);
}

}  // namespace
}  // namespace tutti::eval
