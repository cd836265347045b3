// Images of prompts: files on their way to the rows that stand for them. Opens the part of the
// program that uses libtorch, so it is made only when there are images.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "cli/session.h"
#include "vision/image_prompt.h"

namespace tutti::cli {

class ImageReader {
 public:
  // Throws Error(kUsage) for a model that reads no images.
  explicit ImageReader(const models::Checkpoint& checkpoint);

  const vision::VisionConfig& config() const { return config_; }
  const std::shared_ptr<vision::ImageNetwork>& network() const { return network_; }
  // Throws Error that names the file.
  std::vector<vision::Patches> read(const std::vector<std::string>& files) const;
  // The prompt's tokens with each image's one image token become as many as it needs.
  std::vector<int32_t> expand(std::span<const int32_t> tokens,
                              std::span<const vision::Patches> images) const;
  Task<std::shared_ptr<const decode::PromptRows>> rows(engine::Engine& engine,
                                                       std::shared_ptr<engine::Request> request,
                                                       std::vector<int32_t> tokens,
                                                       std::vector<vision::Patches> images) const;

 private:
  vision::VisionConfig config_;
  std::shared_ptr<vision::ImageNetwork> network_;
};

// A text with a place for each image before it, unless it names places itself.
std::string with_image_places(const std::string& text, size_t images);
// A user turn of so many images, then the text, as chat templates take it; the text alone when it
// names places itself.
nlohmann::ordered_json user_turn(const std::string& text, size_t images);

}  // namespace tutti::cli
