// From what a person types to a model on disk: a path, or a short name among installed packages and
// the folders of TUTTI_MODELS.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tutti::models {

struct KnownModel {
  std::string name;     // "smollm2"
  std::string title;    // for people
  std::string package;  // what pip installs
};
const std::vector<KnownModel>& known_models();

// A .gguf file or a model folder (a package may carry either). Packages that carry a model in
// numbered parts are joined once into the cache folder (TUTTI_CACHE, else XDG_CACHE_HOME/tutti,
// else ~/.cache/tutti). Throws Error(kNotFound) that says where it looked and how to get the model.
std::filesystem::path find_model(const std::string& path_or_name);

}  // namespace tutti::models
