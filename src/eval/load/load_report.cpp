#include "eval/load/load_report.h"

namespace tutti::eval {
namespace {

using Json = nlohmann::ordered_json;

// Negative: unknown.
double first_token_of(const LoadRecord& r) { return r.first_text < 0 ? -1 : r.first_text - r.sent; }
double per_token_of(const LoadRecord& r) {
  return r.first_text < 0 || r.output_tokens < 2
             ? -1
             : (r.end - r.first_text) / double(r.output_tokens - 1);
}

bool is_good(const LoadRecord& r, const LoadGoals& goals) {
  return first_token_of(r) <= goals.first_token && per_token_of(r) <= goals.per_token &&
         r.end - r.sent <= goals.whole;
}

Json milliseconds(const Distribution& d) {
  return {{"count", d.count},         {"mean", 1e3 * d.mean}, {"std", 1e3 * d.deviation},
          {"median", 1e3 * d.median}, {"p90", 1e3 * d.p90},   {"p95", 1e3 * d.p95},
          {"p99", 1e3 * d.p99},       {"max", 1e3 * d.most}};
}

}  // namespace

LoadSummary summarise(const LoadRun& run, const std::array<LoadGoals, 2>& goals, LoadGroup group) {
  LoadSummary s;
  s.seconds = run.seconds;
  std::vector<double> first, between, each, whole;
  for (const LoadRecord& r : run.records) {
    if (group != LoadGroup::kAll && r.is_long != (group == LoadGroup::kLong)) continue;
    ++s.requests;
    switch (r.outcome) {
      case LoadRecord::kInterrupted:
        ++s.interrupted;
        continue;
      case LoadRecord::kCancelled:
        ++s.cancelled;
        continue;
      case LoadRecord::kFailed: {
        ++s.failed;
        LoadSummary::Failure& failure = s.failures[r.failure];
        if (failure.count++ == 0) failure.message = r.message;
        continue;
      }
      case LoadRecord::kCompleted:
        break;
    }
    ++s.completed;
    s.prompt_tokens += r.prompt_tokens;
    s.cached_tokens += r.cached_tokens;
    s.output_tokens += r.output_tokens;
    s.counted = s.counted && r.counted;
    whole.push_back(r.end - r.sent);
    if (first_token_of(r) >= 0) first.push_back(first_token_of(r));
    if (per_token_of(r) >= 0) each.push_back(per_token_of(r));
    between.insert(between.end(), r.gaps.begin(), r.gaps.end());
    if (!is_good(r, goals[r.is_long ? 1 : 0])) continue;
    ++s.good;
    s.good_tokens += r.output_tokens;
  }
  s.first_token = distribution_of(std::move(first));
  s.between_pieces = distribution_of(std::move(between));
  s.per_token = distribution_of(std::move(each));
  s.whole = distribution_of(std::move(whole));
  return s;
}

Json json_of(const LoadSummary& s) {
  Json failures = Json::object();
  for (const auto& [kind, failure] : s.failures)
    failures[kind] = {{"count", failure.count}, {"message", failure.message}};
  return {{"requests", s.requests},
          {"completed", s.completed},
          {"cancelled", s.cancelled},
          {"failed", s.failed},
          {"interrupted", s.interrupted},
          {"failures", std::move(failures)},
          {"seconds", s.seconds},
          {"prompt_tokens", s.prompt_tokens},
          {"cached_tokens", s.cached_tokens},
          {"output_tokens", s.output_tokens},
          {"counted_by_server", s.counted},
          {"requests_s", s.requests_per_second()},
          {"output_tok_s", s.tokens_per_second()},
          {"good", s.good},
          {"good_requests_s", s.goodput()},
          {"good_tok_s", s.seconds > 0 ? double(s.good_tokens) / s.seconds : 0.0},
          {"ttft_ms", milliseconds(s.first_token)},
          {"itl_ms", milliseconds(s.between_pieces)},
          {"tpot_ms", milliseconds(s.per_token)},
          {"e2e_ms", milliseconds(s.whole)}};
}

Json json_of(const LoadRecord& r) {
  Json j{{"outcome", name(r.outcome)}, {"long", r.is_long}, {"sent", r.sent}, {"end", r.end}};
  if (r.first_text >= 0) j["first_text"] = r.first_text;
  j["status"] = r.status;
  j["pieces"] = r.pieces;
  j["prompt_tokens"] = r.prompt_tokens;
  j["cached_tokens"] = r.cached_tokens;
  j["output_tokens"] = r.output_tokens;
  if (!r.failure.empty()) j["failure"] = r.failure;
  if (!r.message.empty()) j["message"] = r.message;
  j["gaps"] = r.gaps;
  return j;
}

}  // namespace tutti::eval
