// Learn2PD (Bao et al., arXiv 2509.25188): a small network reads the probabilities of all positions
// of the block and says, per position, whether what is predicted now is what would stand there in
// the end.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "decode/diffusion/policy.h"
#include "formats/safetensors.h"

namespace tutti::decode::diffusion {

// z = W2 act(W1 c + b1) + b2 over a block's probabilities c.
struct FilterWeights {
  int block = 0;
  bool relu = true;                   // false: no activation between the layers
  std::vector<float> w1, b1, w2, b2;  // [block][block] rows of outputs; [block]

  // Throws Error(kNotFound | kBadFile | kUnsupported): a safetensors file with l1.weight, l1.bias,
  // l2.weight and l2.bias.
  static FilterWeights read(const std::filesystem::path& path);
  // The same of an opened file.
  static FilterWeights from(const formats::Safetensors& file);
  std::vector<float> operator()(std::span<const float> probabilities) const;
};

class LearnedFilter : public Policy {
 public:
  // Throws what reading the file does, and Error(kUsage) when it was trained for blocks of another
  // length.
  LearnedFilter(const PolicyOptions& options, int block);
  LearnedFilter(FilterWeights weights, float accept);
  bool sees_written() const override { return true; }
  std::vector<int> choose(const Step& step, std::vector<Prediction>& predictions) override;

 private:
  FilterWeights weights_;
  float cut_;  // of z: accepted when above
};

}  // namespace tutti::decode::diffusion
