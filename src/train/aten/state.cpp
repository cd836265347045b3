#include "train/aten/state.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/headeronly/version.h>

#include <charconv>
#include <cstring>

#include "base/error.h"
#include "formats/safetensors.h"

namespace tutti::train {

std::string machine_text(at::Device device) {
  return std::to_string(at::get_num_threads()) + " threads, " + at::get_cpu_capability() +
         ", torch " + TORCH_VERSION + (device.is_cpu() ? "" : ", " + device.str());
}

void write_tensors(const std::filesystem::path& path, const NamedTensors& tensors,
                   const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> dense;  // keep the bytes alive
  std::vector<formats::SafetensorsTensor> list;
  for (const auto& [name, tensor] : tensors) {
    dense.push_back(tensor.detach().to(at::kCPU, at::kFloat).contiguous());
    formats::SafetensorsTensor t;
    t.name = name;
    for (const int64_t n : tensor.sizes()) t.shape.push_back(uint64_t(n));
    t.data = std::as_bytes(std::span(dense.back().data_ptr<float>(), size_t(dense.back().numel())));
    list.push_back(std::move(t));
  }
  formats::write_safetensors(path, list, metadata);
}

void save_state(const std::filesystem::path& path, const RunState& state) {
  write_tensors(path, state.tensors,
                {{"format", "tutti-train-1"},
                 {"step", std::to_string(state.step)},
                 {"examples", std::to_string(state.examples)},
                 {"recipe", state.recipe},
                 {"machine", state.machine}});
}

RunState load_state(const std::filesystem::path& path) {
  const formats::Safetensors file = formats::Safetensors::open(path);
  const auto bad = [&](const std::string& what) {
    throw Error(ErrorKind::kBadFile,
                path.string() + ": " + what + "; it is no state of a training run");
  };
  const auto entry = [&](const char* key) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end()) bad(std::string("the metadata lack \"") + key + "\"");
    return found->second;
  };
  if (entry("format") != "tutti-train-1") bad("has the format " + entry("format"));
  RunState state;
  const auto number = [&](const char* key, int64_t& value) {
    const std::string text = entry(key);
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || value < 0)
      bad(std::string("has no number as \"") + key + "\"");
  };
  number("step", state.step);
  if (file.metadata().contains("examples")) number("examples", state.examples);
  state.recipe = entry("recipe");
  state.machine = entry("machine");
  for (const formats::SafetensorsTensor& t : file.tensors()) {
    if (t.dtype != formats::Dtype::kF32) bad("tensor " + t.name + " is not fp32");
    const std::vector<int64_t> shape(t.shape.begin(), t.shape.end());
    at::Tensor tensor = at::empty(shape, at::kFloat);
    std::memcpy(tensor.data_ptr(), t.data.data(), t.data.size());
    state.tensors[t.name] = std::move(tensor);
  }
  return state;
}

}  // namespace tutti::train
