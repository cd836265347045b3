// The head's product and the loss on it, a chunk of rows at a time: with a vocabulary of 49,152 the
// logits of a thousand rows and their gradients would be the largest tensors of a step by far.
// Memory is O(chunk * vocabulary). In fp32, in the order of rows: the same bits on the same
// threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace tutti::train {

struct HeadRows {
  std::vector<int64_t> targets;
  std::vector<float> weights;          // of the rows' cross entropies
  std::vector<float> entropy_weights;  // of their entropies; empty: these are not wanted
};

struct HeadOptions {
  double temperature = 1;  // of the softmax that the entropy is of
  int64_t never = -1;      // a token that has no logit; -1: all have one
  int64_t chunk = 0;       // rows; 0: head_chunk_rows of the vocabulary
};

// sum(weight * cross entropy) + sum(entropy weight * entropy), of logits `states` [rows, hidden]
// times `head` [vocab, hidden] transposed; in nats. The gradient of each of the two is computed
// only where it is asked for, in the same pass over a chunk's logits: a backward pass that made
// them again would take one more product of the head.
at::Tensor head_loss(const at::Tensor& states, const at::Tensor& head, const HeadRows& rows,
                     const HeadOptions& options);

// What the model says at each row.
struct HeadView {
  std::vector<bool> right;       // its likeliest token is the target
  std::vector<float> entropies;  // nats
};
HeadView head_view(const at::Tensor& states, const at::Tensor& head,
                   const std::vector<int64_t>& targets, const HeadOptions& options);

// As many rows as keep one chunk's logits at 32 MiB, on a GPU, which waits for its host at the end
// of every chunk, at 256 MiB; at least 16.
int64_t head_chunk_rows(int64_t vocabulary, at::Device device = at::kCPU);

// The numbers of rows `first` … `first + n - 1`, [n, 1] on the device.
at::Tensor column(const std::vector<int64_t>& values, int64_t first, int64_t n, at::Device device);
at::Tensor column(const std::vector<float>& values, int64_t first, int64_t n, at::Device device);

}  // namespace tutti::train
