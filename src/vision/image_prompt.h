// A tokenised prompt with its images: how many tokens each takes, and the rows that stand for them.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "decode/generation.h"
#include "vision/image_network.h"
#include "vision/vision_config.h"
#include "vision/windows.h"

namespace tutti::vision {

// Every image token becomes as many as its image has cells. Throws Error(kUsage) when there are not
// as many image tokens as images, or a token that stands for a video.
std::vector<int32_t> expand_image_tokens(std::span<const int32_t> tokens,
                                         const VisionConfig& config,
                                         std::span<const Patches> images);

// Sends the images through the tower and puts their features in the places of the (expanded) image
// tokens, in order. Throws Error(kUsage) when tokens and images do not fit.
Task<std::shared_ptr<const decode::PromptRows>> image_prompt(
    engine::Engine& engine, std::shared_ptr<ImageNetwork> network,
    std::shared_ptr<engine::Request> request, std::vector<int32_t> tokens,
    std::vector<Patches> images, VisionConfig config);

}  // namespace tutti::vision
