#include "cli/images.h"

#include "base/error.h"
#include "cli/torch_library.h"

namespace tutti::cli {
namespace {

constexpr const char* kImagePad = "<|image_pad|>";
constexpr const char* kImagePlace = "<|vision_start|><|image_pad|><|vision_end|>";

bool names_places(const std::string& text) { return text.find(kImagePad) != std::string::npos; }

}  // namespace

ImageReader::ImageReader(const models::Checkpoint& checkpoint)
    : config_(vision::vision_config(checkpoint)) {
  const auto make =
      reinterpret_cast<vision::MakeImageNetwork>(torch_function(vision::kMakeImageNetwork));
  make(checkpoint, network_);
}

std::vector<vision::Patches> ImageReader::read(const std::vector<std::string>& files) const {
  std::vector<vision::Patches> images;
  for (const std::string& file : files) {
    images.push_back(vision::patches_of(vision::read_image(file), config_.preprocessing, file));
  }
  return images;
}

std::vector<int32_t> ImageReader::expand(std::span<const int32_t> tokens,
                                         std::span<const vision::Patches> images) const {
  return vision::expand_image_tokens(tokens, config_, images);
}

Task<std::shared_ptr<const decode::PromptRows>> ImageReader::rows(
    engine::Engine& engine, std::shared_ptr<engine::Request> request, std::vector<int32_t> tokens,
    std::vector<vision::Patches> images) const {
  return vision::image_prompt(engine, network_, std::move(request), std::move(tokens),
                              std::move(images), config_);
}

std::string with_image_places(const std::string& text, size_t images) {
  if (names_places(text)) return text;
  std::string out;
  for (size_t i = 0; i < images; ++i) out += kImagePlace;
  return out + text;
}

nlohmann::ordered_json user_turn(const std::string& text, size_t images) {
  if (images == 0 || names_places(text)) return {{"role", "user"}, {"content", text}};
  auto content = nlohmann::ordered_json::array();
  for (size_t i = 0; i < images; ++i) content.push_back({{"type", "image"}});
  content.push_back({{"type", "text"}, {"text", text}});
  return {{"role", "user"}, {"content", content}};
}

}  // namespace tutti::cli
