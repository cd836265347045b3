// For tests: Hugging Face folders of random weights, loaded like any other.
#pragma once

#include <atomic>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include <unistd.h>

#include "base/files.h"
#include "formats/safetensors.h"

namespace tutti::models {

// A folder below the temporary directory, removed when this goes.
class CraftedFolder {
 public:
  CraftedFolder(const CraftedFolder&) = delete;
  ~CraftedFolder() { std::filesystem::remove_all(path_); }

  const std::filesystem::path& path() const { return path_; }

 protected:
  CraftedFolder(const std::string& kind, uint32_t seed) : random_(seed) {
    static std::atomic<int> made{0};
    path_ = std::filesystem::temp_directory_path() /
            ("tutti_" + kind + "_" + std::to_string(getpid()) + "_" + std::to_string(made++));
    std::filesystem::create_directories(path_);
  }

  // Values lie evenly in mean +- spread.
  void add(std::string name, std::vector<uint64_t> shape, float mean, float spread) {
    uint64_t n = 1;
    for (const uint64_t d : shape) n *= d;
    std::vector<float> values(n);
    std::uniform_real_distribution<float> draw(-1, 1);
    for (float& v : values) v = mean + spread * draw(random_);
    tensors_.push_back({std::move(name), std::move(shape), std::move(values)});
  }

  void write(const nlohmann::json& config) const {
    write_file_atomically(path_ / "config.json", config.dump());
    std::vector<formats::SafetensorsTensor> list;
    for (const auto& t : tensors_) {
      list.push_back({t.name, formats::Dtype::kF32, t.shape, std::as_bytes(std::span(t.values))});
    }
    formats::write_safetensors(path_ / "model.safetensors", list);
  }

 private:
  struct Tensor {
    std::string name;
    std::vector<uint64_t> shape;
    std::vector<float> values;
  };

  std::filesystem::path path_;
  std::vector<Tensor> tensors_;
  std::mt19937 random_;
};

}  // namespace tutti::models
