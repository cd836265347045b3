// A draft model whose engine fails: who drafts with it just then is told, nobody else notices, and
// from then on the target writes alone.
#include <gtest/gtest.h>

#include <boost/asio/post.hpp>
#include <memory>
#include <string>

#include "decode/speculative/lossless.h"
#include "decode/speculative/served_draft.h"

namespace tutti::decode {
namespace {

using speculative::DraftFailure;
using speculative::expect_same;
using speculative::ServedDraft;
using Jobs = std::vector<TinyWorld::Job>;

Jobs jobs_of(int count, const std::string& method,
             const std::shared_ptr<const speculative::DraftModel>& draft) {
  Jobs jobs = speculative::endless_jobs(count, 0.8f, 60,
                                        [](int i) { return tiny_prompt(uint32_t(i), 8 + i % 40); });
  for (auto& job : jobs) {
    job.options.method = method;
    if (method == "plain") continue;
    job.options.method_options = {{"adaptive", "0"}};
    job.options.draft_model = draft;
  }
  return jobs;
}

bool failed_by_its_draft(const Outcome& outcome) {
  if (!outcome.error) return false;
  try {
    std::rethrow_exception(outcome.error);
  } catch (const DraftFailure& e) {
    EXPECT_EQ(std::string(e.what()),
              "draft model: engine: a forward failed (threads: there is no core 1048576); ask "
              "again: nothing is drafted from now on, until the program starts anew");
    return true;
  }
}

// Three requests that draft and three that do not; the draft model's engine breaks in its fifth
// forward.
void expect_one_failure(TinyWorld& world,
                        const std::shared_ptr<const speculative::DraftModel>& draft,
                        const std::string& method) {
  const auto plain = speculative::run_plain(world, jobs_of(6, "plain", nullptr));
  Jobs jobs = jobs_of(6, method, draft);
  const Jobs alone = jobs_of(6, "plain", nullptr);
  for (size_t i = 0; i < jobs.size(); i += 2) jobs[i].options = alone[i].options;
  EXPECT_FALSE(draft->failed());
  const auto got = world.run(jobs);
  EXPECT_TRUE(draft->failed());
  int failed = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (i % 2 == 1 && failed_by_its_draft(got[i])) {
      ++failed;
      continue;
    }
    expect_same(plain[i], got[i], method + ", prompt " + std::to_string(i));
  }
  EXPECT_GE(failed, 1) << method;
  EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
  // The next ones are written by the target alone.
  const auto after = world.run(jobs_of(6, method, draft));
  for (size_t i = 0; i < after.size(); ++i)
    expect_same(plain[i], after[i], method + " after, prompt " + std::to_string(i));
  const MethodStatistics sum = speculative::total(after);
  EXPECT_EQ(sum.draft_forwards, 0u) << method;
  EXPECT_EQ(sum.forwards, 6u * 60u) << method;
}

TEST(DraftFailure, OnAThreadOfItsOwnEndsTheRequestsThatDraftWithIt) {
  for (const std::string method : {"draft", "pearl"}) {
    ServedDraft draft(tensor::Type::kQ4_0);
    TinyWorld world;
    asio::post(draft.engine().io(), [&draft] {
      draft.engine().on_tick([&draft](const engine::TickReport& report) {
        if (report.tick == 4) draft.break_engine();
      });
    });
    expect_one_failure(world, draft.model(), method);
    draft.end();
    EXPECT_EQ(draft.engine().pages().free(), draft.engine().pages().total());
  }
}

TEST(DraftFailure, OfAGuestEndsTheRequestsThatDraftWithIt) {
  ServedDraft draft(tensor::Type::kQ4_0);
  draft.end();
  TinyWorld world;
  world.engine.host(draft.shared_engine());
  draft.engine().on_tick([&draft](const engine::TickReport& report) {
    if (report.tick == 4) draft.break_engine();
  });
  expect_one_failure(world, draft.model(), "draft");
  EXPECT_EQ(draft.engine().pages().free(), draft.engine().pages().total());
}

}  // namespace
}  // namespace tutti::decode
