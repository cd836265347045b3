// Transfer maps (Hidden Transfer, sheet 05) and Medusa's blocks in training, beside a frozen
// network.
#pragma once

#include "train/aten/guesser.h"
#include "train/transfer_maps.h"

namespace tutti::train {

class Transfer final : public Guesser {
 public:
  // Linear maps start as the identity, blocks as what adds nothing. `config` and `fingerprint` are
  // the network's; `bf16`: its frozen matrices are rounded once. Throws Error(kUsage): a layer that
  // the network has not.
  Transfer(const LossOptions& options, const models::Config& config,
           const models::TensorWeights& weights, uint64_t fingerprint, bool bf16);

  std::vector<Parameter> parameters() const override;
  States states(const models::Config& config, std::span<const LossSequence> sequences,
                const std::vector<at::Tensor>& values, bool bf16) const override;
  // As TransferMaps, in fp16.
  void save(const std::filesystem::path& folder, const std::vector<at::Tensor>& values,
            const std::string& base, const GuessReport& report) const override;

 private:
  // Of the anchors [A, hidden]: what their rows enter with, [A * offsets, hidden], offset after
  // offset for each anchor. `sources` are their states at the layer of each offset.
  at::Tensor mapped(const std::vector<at::Tensor>& sources,
                    const std::vector<at::Tensor>& values) const;
  at::Tensor normed(const at::Tensor& x, const at::Tensor& weight) const;

  TransferMaps shape_;  // all but the numbers
  double norm_epsilon_;
  models::TensorWeights frozen_;
  std::vector<at::Tensor> weights_, biases_;  // per map; no biases: empty
};

}  // namespace tutti::train
