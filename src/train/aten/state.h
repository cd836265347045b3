// A run's state between two steps: weights, averages and where it stands, as one safetensors file
// that is written whole or not at all.
#pragma once

#include <filesystem>

#include "train/aten/optimiser.h"

namespace tutti::train {

struct RunState {
  int64_t step = 0;       // steps done
  int64_t examples = -1;  // examples taken; -1: not said, by files of older programs
  std::string recipe;     // the text of its file
  std::string machine;    // what decides the bits besides: threads, instruction set, torch, device
  NamedTensors tensors;   // fp32
};

// Throws Error(kSystem).
void save_state(const std::filesystem::path& path, const RunState& state);
// Throws Error(kNotFound | kBadFile).
RunState load_state(const std::filesystem::path& path);

// Writes fp32 tensors under their names, whatever their order in memory.
void write_tensors(const std::filesystem::path& path, const NamedTensors& tensors,
                   const std::map<std::string, std::string>& metadata);

// "2 threads, AVX512, torch 2.13.0"
std::string machine_text(at::Device device = at::kCPU);

}  // namespace tutti::train
