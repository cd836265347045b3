// What is trained beside a frozen network so that it guesses tokens further on: rows behind anchors
// of a text (anchored.h), which learn to say what the network itself will say there.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "train/aten/parameters.h"
#include "train/guess_report.h"
#include "train/loss_rows.h"

namespace tutti::train {

class Guesser {
 public:
  virtual ~Guesser() = default;
  // What moves; starts from these values.
  virtual std::vector<Parameter> parameters() const = 0;

  // The normed states of the rows that predict, and of the text's rows that predict the same
  // tokens, when the parameters have these values. The texts go first, without a graph: they see no
  // row of a guess, so their keys and values are constants. Products in bfloat16 when `bf16`.
  struct States {
    at::Tensor student, teacher;  // [predictions, hidden] each
  };
  virtual States states(const models::Config& config, std::span<const LossSequence> sequences,
                        const std::vector<at::Tensor>& values, bool bf16) const = 0;

  // As the methods that guess read it. `base` names the network; `report` is what was measured on
  // held-out texts, or empty.
  virtual void save(const std::filesystem::path& folder, const std::vector<at::Tensor>& values,
                    const std::string& base, const GuessReport& report) const = 0;
};

}  // namespace tutti::train
