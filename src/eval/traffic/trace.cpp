#include "eval/traffic/trace.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/philox.h"
#include "formats/json_text.h"

namespace tutti::eval {
namespace {

// One request's draws: arrival, lengths, rules; its prompt has a stream of its own.
enum Draw : uint32_t {
  kGap,
  kGapLow,
  kPromptLength,
  kOutputLength,
  kSampled,
  kSeed,
  kSeedLow,
  kCancelled,
  kCancelTime,
  kLong
};

DrawKey key_of(uint64_t seed, uint32_t request, bool prompt) {
  DrawKey key;
  key.seed = seed;
  key.path = request;
  key.position = prompt ? 1 : 0;
  key.purpose = Purpose::kTrace;
  return key;
}

std::vector<int32_t> random_prompt(uint64_t seed, uint32_t request, int n, int vocab) {
  const DrawKey key = key_of(seed, request, true);
  std::vector<int32_t> ids;
  ids.reserve(size_t(n));
  for (int i = 0; i < n; ++i) ids.push_back(int32_t(draw_word(key, uint32_t(i)) % uint32_t(vocab)));
  return ids;
}

int pick(const Between& range, uint32_t word) {
  return range.low + int(word % uint32_t(range.high - range.low + 1));
}

void check(const Between& range, const char* what) {
  if (range.low < 1 || range.high < range.low) {
    throw Error(ErrorKind::kUsage, std::string(what) + ": " + std::to_string(range.low) + "-" +
                                       std::to_string(range.high) +
                                       " is no range; give N or LOW-HIGH, from 1");
  }
}

}  // namespace

Between parse_between(std::string_view text, const std::string& option) {
  const auto bad = [&] {
    return Error(ErrorKind::kUsage,
                 option + " " + std::string(text) + ": is no range; give N or LOW-HIGH, from 1");
  };
  const size_t dash = text.find('-');
  const auto number = [&](std::string_view part) {
    int value = 0;
    const auto read = std::from_chars(part.data(), part.data() + part.size(), value);
    if (read.ec != std::errc() || read.ptr != part.data() + part.size() || value < 1) throw bad();
    return value;
  };
  Between range;
  range.low = number(text.substr(0, dash));
  range.high = dash == std::string_view::npos ? range.low : number(text.substr(dash + 1));
  if (range.high < range.low) throw bad();
  return range;
}

Trace make_trace(const ArrivalOptions& o, int vocab) {
  check(o.prompt_tokens, "prompt tokens");
  check(o.output_tokens, "output tokens");
  const auto share = [](double x, const char* what) {
    if (!(x >= 0 && x <= 1))
      throw Error(ErrorKind::kUsage, std::string(what) + ": is a share, from 0 to 1");
  };
  share(o.sampled_share, "sampled share");
  share(o.cancelled_share, "cancelled share");
  share(o.long_share, "long share");
  if (o.long_share > 0) check(o.long_prompt_tokens, "long prompt tokens");
  if (o.burst < 1) throw Error(ErrorKind::kUsage, "burst: at least 1");
  if (o.requests < 1) throw Error(ErrorKind::kUsage, "requests: at least 1");
  if (!(o.interval >= 0) || !(o.cancel_within >= 0) || !std::isfinite(o.interval) ||
      !std::isfinite(o.cancel_within)) {
    throw Error(ErrorKind::kUsage, "interval: is a number of seconds, from 0");
  }
  Trace trace;
  double now = 0;
  for (int i = 0; i < o.requests; ++i) {
    const DrawKey key = key_of(o.seed, uint32_t(i), false);
    TrafficRequest request;
    if (i > 0) {
      // 1 - u lies in (0, 1]: its logarithm is finite.
      const double u = uniform53(draw_word(key, kGap), draw_word(key, kGapLow));
      switch (o.process) {
        case ArrivalOptions::kConstant:
          now += o.interval;
          break;
        case ArrivalOptions::kPoisson:
          now -= o.interval * std::log(1 - u);
          break;
        case ArrivalOptions::kBursts:
          if (i % o.burst == 0) now += o.interval * o.burst;
          break;
      }
    }
    request.arrival = now;
    request.is_long = double(uniform_open(draw_word(key, kLong))) < o.long_share;
    request.prompt = random_prompt(o.seed, uint32_t(i),
                                   pick(request.is_long ? o.long_prompt_tokens : o.prompt_tokens,
                                        draw_word(key, kPromptLength)),
                                   vocab);
    request.output_tokens = pick(o.output_tokens, draw_word(key, kOutputLength));
    request.ignore_eos = o.ignore_eos;
    if (double(uniform_open(draw_word(key, kSampled))) < o.sampled_share) {
      request.sampling.temperature = 0.8f;
      request.sampling.top_p = 0.95f;
      request.seed = (uint64_t(draw_word(key, kSeed)) << 32) | draw_word(key, kSeedLow);
    }
    if (double(uniform_open(draw_word(key, kCancelled))) < o.cancelled_share) {
      request.cancel_after = o.cancel_within * double(uniform_open(draw_word(key, kCancelTime)));
    }
    trace.push_back(std::move(request));
  }
  return trace;
}

namespace {

using Json = nlohmann::json;

// Of a file's prompts together: 256 MiB of ids.
constexpr size_t kMostPromptTokens = size_t(1) << 26;

[[noreturn]] void wants(const std::string& key, const char* what) {
  throw Error(ErrorKind::kUsage, "\"" + key + "\" wants " + what);
}

double seconds_of(const std::string& key, const Json& value) {
  if (!value.is_number() || value.get<double>() < 0 || value.get<double>() > 1e9) {
    wants(key, "a number of seconds from 0 to 1e9");
  }
  return value.get<double>();
}

int count_of(const std::string& key, const Json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() < 1 ||
      value.get<uint64_t>() > (1u << 20)) {
    wants(key, "a whole number from 1 to 1048576");
  }
  return int(value.get<uint64_t>());
}

float number_of(const std::string& key, const Json& value) {
  if (!value.is_number() ||
      std::fabs(value.get<double>()) > double(std::numeric_limits<float>::max())) {
    wants(key, "a number");
  }
  return float(value.get<double>());
}

std::vector<int32_t> ids_of(const Json& value, int vocab) {
  if (!value.is_array() || value.empty()) wants("ids", "an array of token ids");
  std::vector<int32_t> ids;
  for (const Json& id : value) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= uint64_t(vocab)) {
      throw Error(ErrorKind::kUsage, "\"ids\": " + id.dump() +
                                         " is no token of this model; give whole numbers below " +
                                         std::to_string(vocab));
    }
    ids.push_back(int32_t(id.get<uint64_t>()));
  }
  return ids;
}

// `room`: how many prompt tokens the file may still have.
TrafficRequest parse_request(const Json& line, uint32_t number, const TraceDefaults& defaults,
                             size_t room) {
  if (!line.is_object())
    throw Error(ErrorKind::kUsage, "is no object; give {\"arrival\": 0, \"prompt_tokens\": 16, …}");
  TrafficRequest request;
  int prompts = 0;
  bool arrival = false, output = false, too_many = false;
  for (const auto& [key, value] : line.items()) {
    if (key == "arrival") {
      request.arrival = seconds_of(key, value);
      arrival = true;
    } else if (key == "cancel_after") {
      request.cancel_after = seconds_of(key, value);
    } else if (key == "prompt") {
      if (!value.is_string()) wants(key, "a string");
      if (!defaults.encode)
        throw Error(ErrorKind::kUsage, "\"prompt\": there is no tokenizer here; give \"ids\"");
      request.prompt = defaults.encode(value.get<std::string>());
      if (request.prompt.empty())
        throw Error(ErrorKind::kUsage, "\"prompt\": is empty; give at least one token");
      ++prompts;
    } else if (key == "ids") {
      request.prompt = ids_of(value, defaults.vocab);
      ++prompts;
    } else if (key == "prompt_tokens") {
      const int count = count_of(key, value);
      if (size_t(count) <= room) {
        request.prompt = random_prompt(defaults.seed, number, count, defaults.vocab);
      } else {
        too_many = true;
      }
      ++prompts;
    } else if (key == "output_tokens") {
      request.output_tokens = count_of(key, value);
      output = true;
    } else if (key == "ignore_eos") {
      if (!value.is_boolean()) wants(key, "true or false");
      request.ignore_eos = value.get<bool>();
    } else if (key == "seed") {
      if (!value.is_number_unsigned()) wants(key, "a whole number from 0");
      request.seed = value.get<uint64_t>();
    } else if (key == "temp") {
      request.sampling.temperature = number_of(key, value);
    } else if (key == "top_k") {
      if (!value.is_number_unsigned() || value.get<uint64_t>() > (1u << 24))
        wants(key, "a whole number from 0");
      request.sampling.top_k = int(value.get<uint64_t>());
    } else if (key == "top_p") {
      request.sampling.top_p = number_of(key, value);
    } else if (key == "min_p") {
      request.sampling.min_p = number_of(key, value);
    } else if (key == "repeat_penalty") {
      request.sampling.repetition_penalty = number_of(key, value);
    } else if (key == "presence_penalty") {
      request.sampling.presence_penalty = number_of(key, value);
    } else if (key == "frequency_penalty") {
      request.sampling.frequency_penalty = number_of(key, value);
    } else {
      throw Error(ErrorKind::kUsage,
                  "unknown key \"" + key + "\"; 'tutti traffic --help' names them");
    }
  }
  if (!arrival)
    throw Error(ErrorKind::kUsage, "has no \"arrival\"; give its seconds since the trace began");
  if (!output)
    throw Error(ErrorKind::kUsage, "has no \"output_tokens\"; give how many tokens it wants");
  if (prompts != 1)
    throw Error(ErrorKind::kUsage, "wants one of \"prompt\", \"ids\" and \"prompt_tokens\"");
  if (too_many || request.prompt.size() > room) {
    throw Error(ErrorKind::kUsage, "the file's prompts have more than " +
                                       std::to_string(kMostPromptTokens) +
                                       " tokens together; give shorter prompts or fewer requests");
  }
  engine::validate(request.sampling, defaults.vocab);
  return request;
}

}  // namespace

Trace parse_trace(std::string_view text, const std::string& name, const TraceDefaults& defaults) {
  Trace trace;
  size_t number = 0, room = kMostPromptTokens;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    ++number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.find_first_not_of(" \t") == std::string_view::npos || line.front() == '#') continue;
    try {
      trace.push_back(parse_request(formats::parse_json(line, "request"), uint32_t(trace.size()),
                                    defaults, room));
      room -= trace.back().prompt.size();
    } catch (const Error& error) {
      throw Error(ErrorKind::kUsage,
                  name + ", line " + std::to_string(number) + ": " + error.what());
    }
  }
  if (trace.empty())
    throw Error(ErrorKind::kUsage, name + ": has no requests; give one JSON object a line");
  std::stable_sort(
      trace.begin(), trace.end(),
      [](const TrafficRequest& a, const TrafficRequest& b) { return a.arrival < b.arrival; });
  return trace;
}

}  // namespace tutti::eval
