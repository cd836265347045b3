#include "eval/load/load_plan.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "base/philox.h"
#include "formats/json_text.h"

namespace tutti::eval {
namespace {

using Json = nlohmann::ordered_json;

// Common words, one token each in most vocabularies.
constexpr const char* kWords[] = {
    "time",    "year",     "people",   "way",     "day",      "man",      "thing",    "woman",
    "life",    "child",    "world",    "school",  "state",    "family",   "student",  "group",
    "country", "problem",  "hand",     "part",    "place",    "case",     "week",     "company",
    "system",  "program",  "question", "work",    "number",   "night",    "point",    "home",
    "water",   "room",     "mother",   "area",    "money",    "story",    "fact",     "month",
    "right",   "study",    "book",     "eye",     "job",      "word",     "business", "issue",
    "side",    "kind",     "head",     "house",   "service",  "friend",   "father",   "power",
    "hour",    "game",     "line",     "end",     "member",   "law",      "car",      "city",
    "name",    "team",     "minute",   "idea",    "body",     "back",     "parent",   "face",
    "level",   "office",   "door",     "health",  "person",   "art",      "war",      "history",
    "party",   "result",   "change",   "morning", "reason",   "research", "girl",     "moment",
    "air",     "teacher",  "force",    "order",   "light",    "river",    "music",    "paper",
    "field",   "road",     "table",    "market",  "letter",   "summer",   "winter",   "garden",
    "window",  "village",  "island",   "animal",  "bird",     "tree",     "stone",    "fire",
    "wind",    "color",    "picture",  "sound",   "language", "science",  "nature",   "earth",
    "sea",     "mountain", "king",     "ship",    "train",    "bridge"};

std::string join(const std::vector<int32_t>& words, size_t many) {
  std::string text;
  for (size_t i = 0; i < std::min(many, words.size()); ++i) {
    if (i > 0) text += ' ';
    text += kWords[size_t(words[i])];
  }
  return text;
}

// The most of the first words that are no more tokens than there are words. A word is a token at
// least, nearly always; where it is several, the search closes in from both sides.
std::string text_of(const std::vector<int32_t>& words, const CountTokens& count) {
  const int wanted = int(words.size());
  if (!count) return join(words, words.size());
  int fits = 1, too_many = wanted + 1;  // one word stays, whatever it is
  for (int many = wanted;;) {
    const int over = count(join(words, size_t(many))) - wanted;
    (over > 0 ? too_many : fits) = many;
    if (over == 0 || fits + 1 >= too_many) break;
    many = std::clamp(many - over, fits + 1, too_many - 1);
  }
  return join(words, size_t(fits));
}

std::vector<std::string> shared_prefixes(const LoadPlanOptions& o, const CountTokens& count) {
  std::vector<std::string> prefixes;
  if (o.shared_prefix_tokens == 0) return prefixes;
  if (o.prefixes < 1) throw Error(ErrorKind::kUsage, "prefixes: at least 1");
  for (int p = 0; p < o.prefixes; ++p) {
    DrawKey key;
    key.seed = o.arrivals.seed;
    key.path = uint32_t(p);
    key.position = 2;  // not one of a trace's draws
    key.purpose = Purpose::kTrace;
    std::vector<int32_t> words;
    for (int i = 0; i < o.shared_prefix_tokens; ++i)
      words.push_back(int32_t(draw_word(key, uint32_t(i)) % std::size(kWords)));
    prefixes.push_back(text_of(words, count) + ". ");
  }
  return prefixes;
}

struct Wanted {
  Json messages;  // null: `prompt`
  std::string prompt;
  int output_tokens = 1;
  bool ignore_eos = true;
  uint64_t seed = 0;
};

std::string body_of(const LoadForm& form, const Wanted& wanted, const Json& extra) {
  Json body{{"model", form.model}};
  if (!form.chat) {
    body["prompt"] = wanted.prompt;
  } else if (wanted.messages.is_null()) {
    body["messages"] = Json::array({{{"role", "user"}, {"content", wanted.prompt}}});
  } else {
    body["messages"] = wanted.messages;
  }
  body["max_tokens"] = wanted.output_tokens;
  body["temperature"] = form.temperature;
  if (form.temperature > 0) body["seed"] = wanted.seed % (uint64_t(1) << 31);
  body["stream"] = form.stream;
  if (form.stream) body["stream_options"] = {{"include_usage", true}};
  if (wanted.ignore_eos) body["ignore_eos"] = true;
  body.update(form.extra, true);
  body.update(extra, true);
  return formats::print_json(body);
}

double seconds_of(const std::string& key, const nlohmann::json& value) {
  if (!value.is_number() || value.get<double>() < 0 || value.get<double>() > 1e9)
    throw Error(ErrorKind::kUsage, "\"" + key + "\" wants a number of seconds from 0 to 1e9");
  return value.get<double>();
}

LoadRequest read_line(std::string_view line, const LoadForm& form, Wanted wanted) {
  nlohmann::json json;
  try {
    json = formats::parse_json(line, "request");
  } catch (const Error&) {
    throw Error(ErrorKind::kUsage, "is no JSON; write one object a line");
  }
  if (!json.is_object()) throw Error(ErrorKind::kUsage, "is no JSON object");
  LoadRequest request;
  Json extra = Json::object();
  for (const auto& [key, value] : json.items()) {
    if (key == "prompt") {
      if (!value.is_string()) throw Error(ErrorKind::kUsage, "\"prompt\" wants a text");
      wanted.prompt = value.get<std::string>();
    } else if (key == "messages") {
      if (!value.is_array() || value.empty())
        throw Error(ErrorKind::kUsage, "\"messages\" wants an array of messages");
      if (!form.chat)
        throw Error(ErrorKind::kUsage, "\"messages\" are for chats; leave out --api completions");
      wanted.messages = Json(value);
    } else if (key == "output_tokens") {
      if (!value.is_number_unsigned() || value.get<uint64_t>() < 1 ||
          value.get<uint64_t>() > (1u << 20))
        throw Error(ErrorKind::kUsage, "\"output_tokens\" wants a whole number from 1 to 1048576");
      wanted.output_tokens = int(value.get<uint64_t>());
    } else if (key == "ignore_eos") {
      if (!value.is_boolean()) throw Error(ErrorKind::kUsage, "\"ignore_eos\" wants true or false");
      wanted.ignore_eos = value.get<bool>();
    } else if (key == "arrival") {
      request.arrival = seconds_of(key, value);
    } else if (key == "cancel_after") {
      request.cancel_after = seconds_of(key, value);
    } else if (key == "extra") {
      if (!value.is_object()) throw Error(ErrorKind::kUsage, "\"extra\" wants an object");
      extra = Json(value);
    } else {
      throw Error(ErrorKind::kUsage, "\"" + key +
                                         "\" is not known; there are prompt, messages, "
                                         "output_tokens, ignore_eos, arrival, cancel_after, extra");
    }
  }
  if (json.contains("prompt") == json.contains("messages"))
    throw Error(ErrorKind::kUsage, "wants either \"prompt\" or \"messages\"");
  request.body = body_of(form, wanted, extra);
  return request;
}

}  // namespace

std::vector<LoadRequest> make_load(const LoadPlanOptions& options, const LoadForm& form,
                                   const CountTokens& count) {
  const Trace trace = make_trace(options.arrivals, int(std::size(kWords)));
  const std::vector<std::string> prefixes = shared_prefixes(options, count);
  std::vector<LoadRequest> load;
  for (size_t i = 0; i < trace.size(); ++i) {
    const TrafficRequest& r = trace[i];
    LoadRequest request;
    request.arrival = r.arrival;
    request.cancel_after = r.cancel_after;
    request.is_long = r.is_long;
    Wanted wanted;
    if (!prefixes.empty()) wanted.prompt = prefixes[i % prefixes.size()];
    wanted.prompt += text_of(r.prompt, count);
    wanted.output_tokens = r.output_tokens;
    wanted.ignore_eos = r.ignore_eos;
    wanted.seed = options.arrivals.seed + i;
    request.body = body_of(form, wanted, Json::object());
    load.push_back(std::move(request));
  }
  return load;
}

std::vector<LoadRequest> read_load(std::string_view text, const std::string& name,
                                   const LoadForm& form, int output_tokens, bool ignore_eos) {
  std::vector<LoadRequest> load;
  int number = 0;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    ++number;
    const size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string_view::npos || line[first] == '#') continue;
    Wanted wanted;
    wanted.output_tokens = output_tokens;
    wanted.ignore_eos = ignore_eos;
    wanted.seed = uint64_t(number);
    try {
      load.push_back(read_line(line, form, wanted));
    } catch (const Error& e) {
      throw Error(ErrorKind::kUsage, name + ", line " + std::to_string(number) + ": " + e.what());
    }
  }
  if (load.empty())
    throw Error(ErrorKind::kUsage, name + ": holds no request; write one JSON object a line");
  return load;
}

}  // namespace tutti::eval
