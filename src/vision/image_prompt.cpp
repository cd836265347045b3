#include "vision/image_prompt.h"

#include <algorithm>

#include "base/error.h"

namespace tutti::vision {
namespace {

std::vector<Grid> grids_of(std::span<const Patches> images) {
  std::vector<Grid> grids;
  for (const Patches& image : images) grids.push_back(image.grid);
  return grids;
}

}  // namespace

std::vector<int32_t> expand_image_tokens(std::span<const int32_t> tokens,
                                         const VisionConfig& config,
                                         std::span<const Patches> images) {
  const int32_t image_token = config.image_token;
  if (std::find(tokens.begin(), tokens.end(), config.video_token) != tokens.end()) {
    throw Error(ErrorKind::kUnsupported,
                "prompt: has a place for a video, which Dimple does not read; give images");
  }
  const auto places = size_t(std::count(tokens.begin(), tokens.end(), image_token));
  if (places != images.size()) {
    throw Error(ErrorKind::kUsage, "prompt: has places for " + std::to_string(places) +
                                       " images, but there are " + std::to_string(images.size()) +
                                       "; give as many of one as of the other");
  }
  std::vector<int32_t> out;
  size_t image = 0;
  for (const int32_t token : tokens) {
    const int count =
        token == image_token ? images[image++].grid.cells(config.preprocessing.merge) : 1;
    out.insert(out.end(), size_t(count), token);
  }
  return out;
}

Task<std::shared_ptr<const decode::PromptRows>> image_prompt(
    engine::Engine& engine, std::shared_ptr<ImageNetwork> network,
    std::shared_ptr<engine::Request> request, std::vector<int32_t> tokens,
    std::vector<Patches> images, VisionConfig config) {
  PromptPositions stands =
      prompt_positions(tokens, config.image_token, grids_of(images), config.preprocessing.merge);
  auto rows = std::make_shared<decode::PromptRows>();
  rows->positions = std::move(stands.positions);
  rows->next = stands.next;
  rows->vectors.resize(tokens.size());
  size_t at = 0;
  for (Patches& image : images) {
    const ImageFeatures features = co_await engine.run(network, request, std::move(image));
    for (int cell = 0; cell < features.cells; ++cell) {
      while (tokens[at] != config.image_token) ++at;
      const auto first = features.values.begin() + ptrdiff_t(cell) * features.hidden;
      rows->vectors[at++].assign(first, first + features.hidden);
    }
  }
  co_return rows;
}

}  // namespace tutti::vision
