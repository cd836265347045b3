// A Hugging Face model folder: config.json, generation_config.json, the tokenizer's files and the
// safetensors weights. Nothing in it is ever executed or unpickled.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "formats/safetensors.h"

namespace tutti::formats {

class ModelFolder {
 public:
  // Reads the small files and maps the weights. A folder without weights opens (a tokenizer can be
  // used alone); one without config.json does not.
  // Throws Error(kNotFound | kBadFile | kUnsupported).
  static ModelFolder open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const nlohmann::json& config() const { return config_; }
  // Empty objects when the file is absent.
  const nlohmann::json& generation_config() const { return generation_config_; }
  const nlohmann::json& tokenizer_config() const { return tokenizer_config_; }
  // tokenizer.json, parsed at each call (it can be tens of megabytes). Error(kNotFound).
  nlohmann::json tokenizer() const;
  // Error(kNotFound) when the folder has none, Error(kUnsupported) when it has pickled ones only.
  const Safetensors& weights() const;

  // By name; "default" is the one of ordinary chats. chat_template.jinja and
  // additional_chat_templates/NAME.jinja come before tokenizer_config.json's "chat_template".
  const std::map<std::string, std::string>& chat_templates() const { return chat_templates_; }
  std::optional<std::string> chat_template() const;

  // A text file of the folder by its plain name (vocab.json, merges.txt ...); nullopt when absent.
  std::optional<std::string> text(std::string_view file) const;

 private:
  std::filesystem::path path_;
  nlohmann::json config_, generation_config_, tokenizer_config_;
  std::map<std::string, std::string> chat_templates_;
  std::optional<Safetensors> weights_;
};

// The templates of a tokenizer_config.json: "chat_template" is a text, or a list of {name,
// template}. `name` stands for the file in errors. Throws Error(kBadFile).
std::map<std::string, std::string> parse_chat_templates(const nlohmann::json& tokenizer_config,
                                                        const std::string& name);

}  // namespace tutti::formats
