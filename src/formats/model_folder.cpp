#include "formats/model_folder.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "formats/json_text.h"
#include "formats/shown.h"

namespace tutti::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kLongestConfig = size_t(16) << 20;
constexpr size_t kLongestTokenizer = size_t(256) << 20;
constexpr size_t kLongestTemplate = size_t(4) << 20;

[[noreturn]] void missing(const fs::path& file, const std::string& what) {
  throw Error(ErrorKind::kNotFound, file.string() + ": is missing; " + what);
}

// A JSON object; an empty one when the file is absent.
json read_object(const fs::path& file) {
  if (!fs::exists(file)) return json::object();
  json value = parse_json(read_file(file, kLongestConfig), file.string());
  if (!value.is_object()) {
    throw Error(ErrorKind::kBadFile,
                file.string() + ": is no JSON object; the file is damaged, fetch it again");
  }
  return value;
}

std::vector<fs::path> files_with(const fs::path& folder, const std::string& extension) {
  std::vector<fs::path> result;
  if (!fs::is_directory(folder)) return result;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == extension) result.push_back(entry.path());
  }
  std::sort(result.begin(), result.end());
  return result;
}

std::optional<Safetensors> open_weights(const fs::path& folder) {
  for (const char* name : {"model.safetensors.index.json", "model.safetensors"}) {
    if (fs::exists(folder / name)) return Safetensors::open(folder / name);
  }
  const auto files = files_with(folder, ".safetensors");
  if (files.empty()) return std::nullopt;
  if (files.size() == 1) return Safetensors::open(files[0]);
  missing(folder / "model.safetensors.index.json",
          "the folder has " + std::to_string(files.size()) +
              " .safetensors files and nothing says how they belong together; fetch the index");
}

}  // namespace

ModelFolder ModelFolder::open(const fs::path& path) {
  if (!fs::is_directory(path)) {
    throw Error(ErrorKind::kNotFound, path.string() + ": is no folder; give a model's folder");
  }
  ModelFolder folder;
  folder.path_ = path;
  if (!fs::exists(path / "config.json")) {
    missing(path / "config.json", "give the folder of a model as published on Hugging Face");
  }
  folder.config_ = read_object(path / "config.json");
  folder.generation_config_ = read_object(path / "generation_config.json");
  folder.tokenizer_config_ = read_object(path / "tokenizer_config.json");
  for (const fs::path& file : files_with(path / "additional_chat_templates", ".jinja")) {
    folder.chat_templates_.emplace(file.stem().string(), read_file(file, kLongestTemplate));
  }
  if (auto text = folder.text("chat_template.jinja")) {
    folder.chat_templates_["default"] = std::move(*text);
  }
  folder.chat_templates_.merge(
      parse_chat_templates(folder.tokenizer_config_, (path / "tokenizer_config.json").string()));
  folder.weights_ = open_weights(path);
  return folder;
}

json ModelFolder::tokenizer() const {
  const fs::path file = path_ / "tokenizer.json";
  if (!fs::exists(file)) {
    missing(file,
            "fetch it with the model, or save the tokenizer with tokenizers' save_pretrained");
  }
  return parse_json(read_file(file, kLongestTokenizer), file.string());
}

const Safetensors& ModelFolder::weights() const {
  if (weights_) return *weights_;
  for (const char* extension : {".bin", ".pt", ".pth", ".ckpt"}) {
    const auto files = files_with(path_, extension);
    if (files.empty()) continue;
    throw Error(ErrorKind::kUnsupported,
                files[0].string() +
                    ": pickled weights are never read, they can run code; convert "
                    "the model to safetensors");
  }
  missing(path_ / "model.safetensors", "fetch the model's weights into the folder");
}

std::optional<std::string> ModelFolder::chat_template() const {
  const auto it = chat_templates_.find("default");
  if (it == chat_templates_.end()) return std::nullopt;
  return it->second;
}

std::optional<std::string> ModelFolder::text(std::string_view file) const {
  if (fs::path(file).filename() != fs::path(file)) {
    throw Error(ErrorKind::kUsage, shown(file) + ": is a path; give the plain name of a file");
  }
  if (!fs::exists(path_ / file)) return std::nullopt;
  return read_file(path_ / file, kLongestTokenizer);
}

std::map<std::string, std::string> parse_chat_templates(const json& tokenizer_config,
                                                        const std::string& name) {
  std::map<std::string, std::string> result;
  const auto bad = [&](const char* what) {
    throw Error(ErrorKind::kBadFile,
                name + ": chat_template: " + what + "; the file is damaged, fetch it again");
  };
  if (!tokenizer_config.is_object()) return result;
  const auto found = tokenizer_config.find("chat_template");
  if (found == tokenizer_config.end() || found->is_null()) return result;
  if (found->is_string()) {
    result["default"] = found->get<std::string>();
    return result;
  }
  if (!found->is_array()) bad("is neither a text nor a list of named ones");
  for (const json& entry : *found) {
    const auto text = [&](const char* key) {
      const auto it = entry.is_object() ? entry.find(key) : entry.end();
      if (!entry.is_object() || it == entry.end() || !it->is_string()) {
        bad("an entry is no {name, template} of texts");
      }
      return it->get<std::string>();
    };
    if (!result.emplace(text("name"), text("template")).second) bad("a name occurs twice");
  }
  return result;
}

}  // namespace tutti::formats
