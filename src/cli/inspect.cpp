// tutti inspect: what a model file holds, and what running it takes.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/json_text.h"
#include "formats/gguf.h"
#include "models/checkpoint.h"
#include "models/find_model.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShownElements = 8;

Json scalar_json(const formats::GgufValue& v) {
  return std::visit(
      [](const auto& x) -> Json {
        using T = std::decay_t<decltype(x)>;
        if constexpr (std::is_same_v<T, std::shared_ptr<formats::GgufArray>>) {
          return Json();
        } else {
          return Json(x);
        }
      },
      v.value);
}

// Long arrays are shown by length and first elements.
Json value_json(const formats::GgufValue& v) {
  const auto* array = std::get_if<std::shared_ptr<formats::GgufArray>>(&v.value);
  if (!array) return scalar_json(v);
  Json shown = Json::array();
  const size_t count = (*array)->size();
  for (size_t i = 0; i < std::min(count, kShownElements); ++i)
    shown.push_back(value_json((*array)->at(i)));
  return {{"count", count}, {"first", std::move(shown)}};
}

std::string short_text(const Json& j) {
  std::string text = print_json(j);
  if (text.size() <= 100) return text;
  size_t end = 97;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;  // not within a character
  return text.substr(0, end) + "...";
}

void inspect(const std::string& model, int context, bool json) {
  const auto path = models::find_model(model);
  Json metadata = Json::object(), tensors = Json::array();
  std::map<std::string, std::pair<int, uint64_t>> by_type;
  const auto add_tensor = [&](const std::string& name, tensor::Type type, Json shape,
                              uint64_t bytes) {
    const std::string type_name(tensor::info(type).name);
    ++by_type[type_name].first;
    by_type[type_name].second += bytes;
    tensors.push_back(
        {{"name", name}, {"type", type_name}, {"shape", std::move(shape)}, {"bytes", bytes}});
  };
  std::shared_ptr<const models::Checkpoint> checkpoint;
  std::string problem;
  try {
    checkpoint = std::make_shared<models::Checkpoint>(models::Checkpoint::open(path));
  } catch (const std::exception& error) {
    problem = error.what();  // a vocabulary-only or unsupported file can still be shown
  }
  if (std::filesystem::is_directory(path)) {
    const auto folder = formats::ModelFolder::open(path);
    metadata = Json::parse(folder.config().dump());
    if (checkpoint) {
      for (const auto& t : folder.weights().tensors()) {
        tensors.push_back({{"name", t.name},
                           {"type", std::string(formats::info(t.dtype).name)},
                           {"shape", t.shape},
                           {"bytes", t.data.size()}});
        ++by_type[std::string(formats::info(t.dtype).name)].first;
        by_type[std::string(formats::info(t.dtype).name)].second += t.data.size();
      }
    }
  } else {
    const auto gguf = formats::Gguf::open(path);
    for (const auto& [key, value] : gguf.metadata()) metadata[key] = value_json(value);
    for (const auto& t : gguf.tensors()) add_tensor(t.name, t.type, Json(t.dims), t.data.size());
  }
  Json plan;
  uint64_t weight_bytes = 0;
  for (const auto& [type, entry] : by_type) weight_bytes += entry.second;
  if (checkpoint) {
    const auto& c = checkpoint->config();
    const int tokens = context > 0 ? context : c.context_length;
    Json kv;
    for (const auto& [name, type] : {std::pair{"f16", tensor::KvType::kF16},
                                     {"f32", tensor::KvType::kF32},
                                     {"i8", tensor::KvType::kI8}}) {
      const tensor::KvLayout layout{type, c.layers, c.kv_heads, c.head_dim};
      kv[name] = {
          {"bytes_per_token", layout.page_bytes() / tensor::kPageSlots},
          {"bytes_per_context",
           layout.page_bytes() * size_t((tokens + tensor::kPageSlots - 1) / tensor::kPageSlots)}};
    }
    plan = {{"architecture", c.architecture},
            {"layers", c.layers},
            {"hidden", c.hidden},
            {"heads", c.heads},
            {"kv_heads", c.kv_heads},
            {"head_dim", c.head_dim},
            {"intermediate", c.intermediate},
            {"vocab", c.vocab},
            {"context_length", c.context_length},
            {"experts", c.experts.count},
            {"weight_bytes", weight_bytes},
            {"context_tokens", tokens},
            {"kv", std::move(kv)}};
  }
  if (json) {
    Json out{{"path", path.string()}, {"metadata", metadata}, {"tensors", tensors}};
    out["plan"] = checkpoint ? plan : Json();
    if (!problem.empty()) out["problem"] = problem;
    std::cout << print_json(out) << '\n';
    return;
  }
  std::printf("%s\n\nmetadata\n", path.c_str());
  for (const auto& [key, value] : metadata.items())
    std::printf("  %-44s %s\n", key.c_str(), short_text(value).c_str());
  std::printf("\ntensors by type\n");
  for (const auto& [type, entry] : by_type) {
    std::printf("  %-6s %5d tensors %10.1f MiB\n", type.c_str(), entry.first,
                double(entry.second) / (1 << 20));
  }
  std::printf("\ntensors\n");
  for (const auto& t : tensors) {
    std::printf("  %-44s %-6s %s\n", t["name"].get<std::string>().c_str(),
                t["type"].get<std::string>().c_str(), t["shape"].dump().c_str());
  }
  if (!problem.empty()) {
    std::printf("\ncannot be run: %s\n", problem.c_str());
    return;
  }
  std::printf("\nmemory\n  weights %.1f MiB\n", double(weight_bytes) / (1 << 20));
  for (const auto& [name, kv] : plan["kv"].items()) {
    std::printf("  keys and values, %s: %zu bytes a token, %.1f MiB for %d tokens\n", name.c_str(),
                kv["bytes_per_token"].get<size_t>(),
                kv["bytes_per_context"].get<double>() / (1 << 20),
                plan["context_tokens"].get<int>());
  }
}

}  // namespace

void add_inspect(CLI::App& app) {
  struct Options {
    std::string model;
    int context = 0;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("inspect", "metadata, tensor types and memory plan of a model");
  command->add_option("model,-m,--model", o->model, "a .gguf file, a folder, or a short name")
      ->required()
      ->envname("TUTTI_MODEL");
  command
      ->add_option("-c,--ctx-size", o->context,
                   "plan the memory for this many tokens; 0: the model's context")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->callback([o] { inspect(o->model, o->context, o->json); });
}

}  // namespace tutti::cli
