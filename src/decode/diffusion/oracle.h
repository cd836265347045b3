// Learn2PD's "extremely greedy" decoding (EGP): given what a slow decoder wrote in the end, every
// position is written as soon as the model predicts that. It never writes anything else, so it
// bounds what any filter can save, and what it saw on the way is what a filter is trained on.
#pragma once

#include <vector>

#include "decode/diffusion/policy.h"

namespace tutti::decode::diffusion {

// A block at one step: how sure the model was of each position, and whether its guess was what
// stood there in the end.
struct FilterRecord {
  int step = 0;
  std::vector<float> probability;
  std::vector<bool> right;
};

class Oracle : public Policy {
 public:
  // `reference`: by position of the whole sequence. Records are appended to `records`; `stuck`
  // counts the times that no guess was right, so that every further forward would say the same, and
  // the reference was written. Both may be null.
  explicit Oracle(std::vector<int32_t> reference, std::vector<FilterRecord>* records = nullptr,
                  int* stuck = nullptr)
      : reference_(std::move(reference)), records_(records), stuck_(stuck) {}
  bool sees_written() const override { return true; }
  std::vector<int> choose(const Step& step, std::vector<Prediction>& predictions) override;

 private:
  std::vector<int32_t> reference_;
  std::vector<FilterRecord>* records_;
  int* stuck_;
};

}  // namespace tutti::decode::diffusion
