#include "cli/load_output.h"

#include <cmath>
#include <cstdio>

#include "cli/json_text.h"
#include "eval/plot.h"
#include "formats/shown.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;
using eval::LoadSummary;

// Of a core, in per cent.
double own_cpu(const LoadLevel& l) {
  return l.run.seconds > 0 ? 100 * l.run.cpu_seconds / l.run.seconds : 0;
}

std::string level_name(const LoadDocument& d, const LoadLevel& l) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", l.level);
  return d.open_loop && l.level == 0 ? "trace" : text;
}

void print_row(const std::string& name, const LoadSummary& s, bool streams) {
  std::printf("  %-14s %5zu %5zu %5zu %8.2f %8.2f %9.1f %8.2f", name.c_str(), s.completed,
              s.cancelled, s.failed, s.seconds, s.requests_per_second(), s.tokens_per_second(),
              s.goodput());
  if (streams) {
    std::printf("  %8.1f %8.1f %8.1f %8.1f %8.1f %8.1f", 1e3 * s.first_token.median,
                1e3 * s.first_token.p99, 1e3 * s.between_pieces.median, 1e3 * s.between_pieces.p99,
                1e3 * s.per_token.median, 1e3 * s.per_token.p99);
  }
  std::printf("  %7.2f %7.2f\n", s.whole.median, s.whole.p99);
}

std::string goal_text(const char* name, double seconds) {
  if (!std::isfinite(seconds)) return "";
  char text[64];
  std::snprintf(text, sizeof text, ", %s at most %.1f ms", name, 1e3 * seconds);
  return text;
}

void print_lone(const char* who, const LoadSummary& s, const eval::LoadGoals& goals, bool streams) {
  std::printf("%s (median of %zu): ", who, s.completed);
  if (streams)
    std::printf("first text after %.1f ms, %.2f ms per token, ", 1e3 * s.first_token.median,
                1e3 * s.per_token.median);
  const std::string goal = goal_text("first text", goals.first_token) +
                           goal_text("per token", goals.per_token) +
                           goal_text("whole", goals.whole);
  std::printf("whole in %.3f s; good is%s\n", s.whole.median,
              goal.empty() ? " any answer" : goal.c_str() + 1);
}

Json json_of_goals(const eval::LoadGoals& goals) {
  const auto milliseconds = [](double s) { return std::isfinite(s) ? Json(1e3 * s) : Json(); };
  return {{"ttft_ms", milliseconds(goals.first_token)},
          {"tpot_ms", milliseconds(goals.per_token)},
          {"e2e_ms", milliseconds(goals.whole)}};
}

}  // namespace

void print_load(const LoadDocument& d) {
  const Json& a = d.about;
  const auto text = [&](const char* key) { return a[key].get<std::string>(); };
  std::printf(
      "%s, model %s, %s, %s loop; prompts %s, %s tokens%s, answers %s tokens, seed %llu\n",
      text("url").c_str(), formats::shown(text("model")).c_str(),
      d.streams ? "streams" : "whole answers", text("loop").c_str(), text("prompts").c_str(),
      text("prompt_tokens").c_str(), a["tokens_counted_at_server"].get<bool>() ? "" : " (words)",
      text("output_tokens").c_str(), static_cast<unsigned long long>(a["seed"].get<uint64_t>()));
  print_lone("a lone client", d.lone, d.goals[0], d.streams);
  if (d.lone_long.requests > 0)
    print_lone("a lone client, long prompts", d.lone_long, d.goals[1], d.streams);
  std::printf("\n  %-14s %5s %5s %5s %8s %8s %9s %8s", d.open_loop ? "requests/s" : "clients", "ok",
              "gone", "wrong", "seconds", "req/s", "tok/s", "good/s");
  if (d.streams)
    std::printf("  %8s %8s %8s %8s %8s %8s", "TTFT p50", "p99", "ITL p50", "p99", "TPOT p50",
                "p99");
  std::printf("  %7s %7s\n", "E2E p50", "p99");
  for (const LoadLevel& l : d.levels) {
    print_row(level_name(d, l), l.all, d.streams);
    for (const auto& [name, summary] : l.groups) print_row("  " + name, summary, d.streams);
    for (const auto& [kind, failure] : l.all.failures) {
      std::printf("    %zu × %s%s%s\n", failure.count, kind.c_str(),
                  failure.message.empty() ? "" : ": ", failure.message.c_str());
    }
  }
  std::printf("\nTTFT, ITL (between pieces of text), TPOT in ms, E2E in s. ");
  for (const LoadLevel& l : d.levels) {
    std::printf("%sAt %s: %zu in flight at most, %.1f %% of a core for this client",
                &l == &d.levels.front() ? "" : "; ", level_name(d, l).c_str(), l.run.most_in_flight,
                own_cpu(l));
    if (l.all.cached_tokens > 0 && l.all.prompt_tokens > 0)
      std::printf(", %.0f %% of the prompts' tokens cached",
                  100 * double(l.all.cached_tokens) / double(l.all.prompt_tokens));
    if (!l.all.counted) std::printf(", tokens counted as pieces: the server sent no usage");
  }
  std::printf(".\n");
}

Json load_json(const LoadDocument& d) {
  Json json = d.about;
  json["lone"] = eval::json_of(d.lone);
  json["goals"] = json_of_goals(d.goals[0]);
  if (d.lone_long.requests > 0) {
    json["lone_long"] = eval::json_of(d.lone_long);
    json["goals_long"] = json_of_goals(d.goals[1]);
  }
  json["interrupted"] = d.interrupted;
  Json levels = Json::array();
  for (const LoadLevel& l : d.levels) {
    Json one{{d.open_loop ? "rate" : "clients", l.level}};
    one.update(eval::json_of(l.all));
    one["most_in_flight"] = l.run.most_in_flight;
    one["client_cpu_percent"] = own_cpu(l);
    for (const auto& [name, summary] : l.groups) one["groups"][name] = eval::json_of(summary);
    levels.push_back(std::move(one));
  }
  json["levels"] = std::move(levels);
  return json;
}

std::string load_throughput_plot(const LoadDocument& d) {
  std::vector<std::pair<double, double>> all, good;
  for (const LoadLevel& l : d.levels) {
    all.emplace_back(l.level, l.all.tokens_per_second());
    good.emplace_back(l.level, l.all.seconds > 0 ? double(l.all.good_tokens) / l.all.seconds : 0);
  }
  eval::Plot plot("load on " + d.about["model"].get<std::string>(),
                  d.open_loop ? "requests per second" : "clients", "tokens per second");
  plot.add_line("all", std::move(all));
  plot.add_line("within the goals", std::move(good));
  return plot.svg();
}

std::string load_latency_plot(const LoadDocument& d) {
  std::vector<std::pair<double, double>> lines[4];
  for (const LoadLevel& l : d.levels) {
    lines[0].emplace_back(l.level, 1e3 * l.all.first_token.median);
    lines[1].emplace_back(l.level, 1e3 * l.all.first_token.p99);
    lines[2].emplace_back(l.level, 1e3 * l.all.between_pieces.median);
    lines[3].emplace_back(l.level, 1e3 * l.all.between_pieces.p99);
  }
  eval::Plot plot("latency of " + d.about["model"].get<std::string>(),
                  d.open_loop ? "requests per second" : "clients", "milliseconds");
  constexpr const char* kNames[] = {"TTFT, median", "TTFT, p99", "ITL, median", "ITL, p99"};
  for (size_t i = 0; i < std::size(lines); ++i) plot.add_line(kNames[i], std::move(lines[i]));
  return plot.svg();
}

std::string load_records(const LoadDocument& d) {
  std::string out;
  for (const LoadLevel& l : d.levels) {
    for (const eval::LoadRecord& record : l.run.records) {
      Json one{{d.open_loop ? "rate" : "clients", l.level}};
      one.update(eval::json_of(record));
      out += print_json(one) + "\n";
    }
  }
  return out;
}

}  // namespace tutti::cli
