#include "cli/job_line.h"

#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "base/error.h"
#include "cli/json_text.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void wants(const std::string& key, const char* what) {
  throw Error(ErrorKind::kUsage, "\"" + key + "\" wants " + what);
}

const std::string& text_of(const std::string& key, const Json& value) {
  if (!value.is_string()) wants(key, "a string");
  return value.get_ref<const std::string&>();
}

bool flag_of(const std::string& key, const Json& value) {
  if (!value.is_boolean()) wants(key, "true or false");
  return value.get<bool>();
}

int int_of(const std::string& key, const Json& value) {
  const bool fits =
      value.is_number_unsigned()
          ? value.get<uint64_t>() <= uint64_t(std::numeric_limits<int>::max())
          : value.is_number_integer() && value.get<int64_t>() >= std::numeric_limits<int>::min();
  if (!fits) wants(key, "a whole number of 32 bits");
  return value.get<int>();
}

float number_of(const std::string& key, const Json& value) {
  if (!value.is_number() ||
      std::fabs(value.get<double>()) > double(std::numeric_limits<float>::max())) {
    wants(key, "a number");
  }
  return float(value.get<double>());
}

std::optional<uint64_t> seed_of(const std::string& key, const Json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  if (!value.is_number_integer() || value.get<int64_t>() != -1)
    wants(key, "a whole number from 0, or -1 for a new one");
  return std::nullopt;
}

std::vector<std::string> stops_of(const std::string& key, const Json& value) {
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_array()) wants(key, "a string or an array of strings");
  std::vector<std::string> stops;
  for (const Json& stop : value) stops.push_back(text_of(key, stop));
  return stops;
}

std::vector<std::string> files_of(const std::string& key, const Json& value) {
  if (!value.is_array()) wants(key, "an array of file names");
  std::vector<std::string> files;
  for (const Json& file : value) files.push_back(text_of(key, file));
  return files;
}

std::vector<std::pair<int32_t, float>> biases_of(const std::string& key, const Json& value) {
  constexpr const char* kWhat = "an object of token ids and numbers, for example {\"42\": -1.5}";
  if (!value.is_object()) wants(key, kWhat);
  std::vector<std::pair<int32_t, float>> biases;
  for (const auto& [id, bias] : value.items()) {
    const Json number = Json::parse(id, nullptr, false);
    if (!number.is_number_integer() || !bias.is_number()) wants(key, kWhat);
    biases.emplace_back(int_of(key, number), number_of(key, bias));
  }
  return biases;
}

std::vector<ContextText> contexts_of(const std::string& key, const Json& value) {
  constexpr const char* kWhat = "an array of texts and {\"id\": a stored context}";
  if (!value.is_array()) wants(key, kWhat);
  std::vector<ContextText> contexts;
  for (const Json& one : value) {
    ContextText text;
    if (one.is_string()) {
      text.text = one.get<std::string>();
    } else if (one.is_object() && one.size() == 1 && one.contains("id") && one["id"].is_string()) {
      text.stored = one["id"].get<std::string>();
    }
    if (text.text.empty() && text.stored.empty()) wants(key, kWhat);
    contexts.push_back(std::move(text));
  }
  return contexts;
}

using Setter = std::function<void(JobLine&, const std::string& key, const Json& value)>;

const std::map<std::string, Setter>& setters() {
  static const std::map<std::string, Setter> kSetters = [] {
    const Setter max_tokens = [](auto& j, auto& k, auto& v) {
      j.options.max_tokens = int_of(k, v);
    };
    const Setter temperature = [](auto& j, auto& k, auto& v) {
      j.options.sampling.temperature = number_of(k, v);
    };
    const Setter typical = [](auto& j, auto& k, auto& v) {
      j.options.sampling.typical_p = number_of(k, v);
    };
    const Setter repetition = [](auto& j, auto& k, auto& v) {
      j.options.sampling.repetition_penalty = number_of(k, v);
    };
    return std::map<std::string, Setter>{
        {"prompt", [](auto& j, auto& k, auto& v) { j.prompt = text_of(k, v); }},
        {"messages",
         [](auto& j, auto& k, auto& v) {
           if (!v.is_array()) wants(k, "an array of {\"role\", \"content\"}");
           j.messages = v;
         }},
        {"system", [](auto& j, auto& k, auto& v) { j.system = text_of(k, v); }},
        {"raw", [](auto& j, auto& k, auto& v) { j.raw = flag_of(k, v); }},
        {"images", [](auto& j, auto& k, auto& v) { j.images = files_of(k, v); }},
        {"contexts", [](auto& j, auto& k, auto& v) { j.contexts = contexts_of(k, v); }},
        {"context_prefix", [](auto& j, auto& k, auto& v) { j.context_prefix = text_of(k, v); }},
        {"context_mode",
         [](auto& j, auto& k, auto& v) {
           j.options.passages.mode = decode::parse_passage_mode(text_of(k, v));
         }},
        {"context_temperature",
         [](auto& j, auto& k, auto& v) { j.options.passages.temperature = number_of(k, v); }},
        {"context_scale",
         [](auto& j, auto& k, auto& v) { j.options.passages.scale = number_of(k, v); }},
        {"id", [](auto& j, auto&, auto& v) { j.id = v; }},
        {"seed", [](auto& j, auto& k, auto& v) { j.options.seed = seed_of(k, v); }},
        {"n", max_tokens},
        {"n_predict", max_tokens},
        {"max_tokens", max_tokens},
        {"samples", [](auto& j, auto& k, auto& v) { j.options.n = int_of(k, v); }},
        {"temp", temperature},
        {"temperature", temperature},
        {"top_k", [](auto& j, auto& k, auto& v) { j.options.sampling.top_k = int_of(k, v); }},
        {"top_p", [](auto& j, auto& k, auto& v) { j.options.sampling.top_p = number_of(k, v); }},
        {"min_p", [](auto& j, auto& k, auto& v) { j.options.sampling.min_p = number_of(k, v); }},
        {"typical", typical},
        {"typical_p", typical},
        {"repeat_penalty", repetition},
        {"repetition_penalty", repetition},
        {"repeat_last_n",
         [](auto& j, auto& k, auto& v) { j.options.sampling.penalty_window = int_of(k, v); }},
        {"presence_penalty",
         [](auto& j, auto& k, auto& v) { j.options.sampling.presence_penalty = number_of(k, v); }},
        {"frequency_penalty",
         [](auto& j, auto& k, auto& v) { j.options.sampling.frequency_penalty = number_of(k, v); }},
        {"logit_bias",
         [](auto& j, auto& k, auto& v) { j.options.sampling.logit_bias = biases_of(k, v); }},
        {"samplers",
         [](auto& j, auto& k, auto& v) {
           j.options.sampling.order = engine::parse_order(text_of(k, v));
         }},
        {"logprobs", [](auto& j, auto& k, auto& v) { j.options.sampling.logprobs = int_of(k, v); }},
        {"stop", [](auto& j, auto& k, auto& v) { j.options.stop = stops_of(k, v); }},
        {"ignore_eos", [](auto& j, auto& k, auto& v) { j.options.ignore_eos = flag_of(k, v); }},
        {"method",
         [](auto& j, auto& k, auto& v) {
           const std::string& method = text_of(k, v);
           if (method != j.options.method) j.options.method_options.clear();
           j.options.method = method;
         }},
        {"options", [](auto&, auto& k, auto& v) {
           if (!v.is_object()) wants(k, "an object of the method's options");
         }}};
  }();
  return kSetters;
}

}  // namespace

JobLine parse_job_line(std::string_view line, const decode::GenerationOptions& defaults) {
  const Json j = parse_json(line);
  if (!j.is_object()) throw Error(ErrorKind::kUsage, "is no JSON object; give {\"prompt\": \"…\"}");
  if (j.contains("prompt") == j.contains("messages")) {
    throw Error(ErrorKind::kUsage, j.contains("prompt")
                                       ? "has both \"prompt\" and \"messages\"; give one"
                                       : "has neither \"prompt\" nor \"messages\"");
  }
  JobLine job;
  job.options = defaults;
  for (const auto& [key, value] : j.items()) {
    const auto setter = setters().find(key);
    if (setter == setters().end()) {
      job.unknown.push_back(key);
    } else if (!value.is_null() || key == "prompt" || key == "messages") {
      setter->second(job, key, value);
    }
  }
  // After "method", which may have dropped those of another method.
  if (const auto options = j.find("options"); options != j.end() && options->is_object()) {
    for (const auto& [key, value] : options->items()) {
      job.options.method_options[key] = value.is_string() ? value.get<std::string>() : value.dump();
    }
  }
  return job;
}

}  // namespace tutti::cli
