// Closing the holes that ended requests leave in an array of slots (the "memory shuffle" of Flover,
// arXiv 2305.13484). Pure functions: the bytes are moved by whoever owns the slots.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tutti::eval {

struct Move {
  int from = 0;
  int to = 0;
};

// After the moves the live slots are [first, first + count).
struct Compaction {
  int first = 0;
  int count = 0;
  std::vector<Move> moves;  // from ascending, to ascending; no slot appears twice
  uint64_t weight = 0;      // of the slots that move
};

// The cheapest way to a contiguous run, in O(n): of all windows as long as there are live slots the
// one that holds the most weight, the first of equals; what is live outside goes into the holes
// inside. `weights` (what a slot costs to move, n of them) is empty for 1 each. Slots that are not
// live weigh nothing.
Compaction plan_compaction(std::span<const uint8_t> live, std::span<const uint64_t> weights = {});

// Rows that holes cost when nothing moves: a hole between live slots is computed until all of those
// on one of its sides have ended. `remaining` (n): iterations that a live slot still runs. O(n).
uint64_t rows_of_holes(std::span<const uint8_t> live, std::span<const uint64_t> remaining);

// Which slots a batch over contiguous slots computes: all of [first, first + size), live or not.
class SlotWindow {
 public:
  explicit SlotWindow(int slots) : live_(size_t(slots), 0) {}

  int slots() const { return int(live_.size()); }
  int first() const { return first_; }
  int size() const { return size_; }
  int live_count() const { return live_count_; }
  int holes() const { return size_ - live_count_; }
  bool live(int slot) const { return live_[size_t(slot)] != 0; }
  std::span<const uint8_t> live() const { return live_; }

  // A slot for a newcomer: behind the window, else before it, else the first hole; -1 when all are
  // live.
  int take();
  // The request of `slot` ended: the window shrinks when it stands at an end, else a hole stays.
  void release(int slot);
  void apply(const Compaction& compaction);

 private:
  std::vector<uint8_t> live_;
  int first_ = 0;
  int size_ = 0;
  int live_count_ = 0;
};

}  // namespace tutti::eval
