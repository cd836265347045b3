#include "decode/diffusion/canvas.h"

#include <algorithm>
#include <cassert>

namespace tutti::decode::diffusion {

Canvas::Canvas(std::span<const int32_t> prompt, int answer, int32_t mask, int block,
               int first_block)
    : prompt_(int(prompt.size())),
      block_(block),
      first_block_(first_block),
      mask_(mask),
      tokens_(prompt.begin(), prompt.end()),
      open_(prompt.size() + size_t(answer), false),
      open_count_(answer),
      begin_(first_block),
      settled_(prompt_) {
  tokens_.resize(open_.size(), mask);
  std::fill(open_.begin() + prompt_, open_.end(), true);
  advance();
}

std::vector<int> Canvas::open_in(int begin, int end) const {
  std::vector<int> out;
  for (int p = std::max(begin, prompt_); p < std::min(end, size()); ++p) {
    if (open(p)) out.push_back(p);
  }
  return out;
}

int Canvas::end_after(int blocks) const {
  int end = begin_;
  for (int b = 0; b < blocks && end < size(); ++b) end = end_of(end);
  return end;
}

void Canvas::advance() {
  while (settled_ < size() && !open(settled_)) ++settled_;
  while (begin_ < size() && end_of(begin_) <= settled_) begin_ = end_of(begin_);
}

void Canvas::commit(std::span<const Commit> commits) {
  for (const Commit& c : commits) {
    assert(open(c.position));
    tokens_[size_t(c.position)] = c.token;
    open_[size_t(c.position)] = false;
  }
  open_count_ -= int(commits.size());
  advance();
}

void Canvas::pin(int position, int32_t token) {
  const Commit c{position, token, 0.0f};
  commit(std::span(&c, 1));
}

void Canvas::truncate(int size) {
  assert(size >= prompt_);
  for (int p = size; p < this->size(); ++p) open_count_ -= open(p);
  tokens_.resize(size_t(size));
  open_.resize(size_t(size));
  settled_ = std::min(settled_, size);
  begin_ = std::min(begin_, size);
  advance();
}

}  // namespace tutti::decode::diffusion
