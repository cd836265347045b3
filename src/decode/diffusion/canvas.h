// The sequence that a masked model fills in: a prompt, then an answer of fixed length whose
// positions are open (the mask token) until something is written there. Semi-autoregressive: blocks
// of the answer are finished one after the other (LLaDA 2025; Arriola et al., "Block Diffusion",
// ICLR 2025).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tutti::decode::diffusion {

// One position being written.
struct Commit {
  int position = 0;
  int32_t token = -1;
  float log_probability = 0;  // that the model gave the token when it was written, in nats
};

class Canvas {
 public:
  // Blocks of `block` positions from `first_block` on; the last may be shorter. first_block is
  // prompt.size(), or for models whose attention has blocks the last multiple of the block that is
  // not above it.
  Canvas(std::span<const int32_t> prompt, int answer, int32_t mask, int block, int first_block);

  int size() const { return int(tokens_.size()); }
  int prompt() const { return prompt_; }
  int block() const { return block_; }
  int first_block() const { return first_block_; }
  int32_t mask() const { return mask_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  bool open(int position) const { return open_[size_t(position)]; }
  // Open positions of [begin, end), ascending.
  std::vector<int> open_in(int begin, int end) const;
  int open_count() const { return open_count_; }

  // The block that is worked on: the first with an open position; [size, size) when there is none.
  int begin() const { return begin_; }
  int end() const { return end_of(begin_); }
  int end_of(int begin) const { return begin + block_ < size() ? begin + block_ : size(); }
  // The end of that block and of the `blocks` - 1 behind it.
  int end_after(int blocks) const;
  bool done() const { return open_count_ == 0; }
  // Everything before this position is written.
  int settled() const { return settled_; }

  // Writes; the positions must be open.
  void commit(std::span<const Commit> commits);
  // A token that stands from the beginning (structure prior).
  void pin(int position, int32_t token);
  // Takes positions from `size` on away. Not below the prompt.
  void truncate(int size);

 private:
  void advance();

  int prompt_, block_, first_block_;
  int32_t mask_;
  std::vector<int32_t> tokens_;
  std::vector<bool> open_;
  int open_count_;
  int begin_;
  int settled_;
};

}  // namespace tutti::decode::diffusion
