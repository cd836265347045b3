// Engines that share cores take turns. Each gets core time in proportion to its weight while it has
// work.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

namespace tutti::engine {

class CoreLease {
 public:
  // Takes part with `weight` > 0; returns the member's number.
  int join(double weight);
  // `hungry`: the member has work and will come for a turn; others whose time is ahead wait for it.
  void set_hungry(int member, bool hungry);
  // Blocks until it is this member's turn.
  void acquire(int member);
  // Ends the turn; `seconds` of core time are charged.
  void release(int member, double seconds);
  // Core seconds charged so far.
  double charged(int member) const;

 private:
  struct Member {
    double weight = 1;
    double time = 0;  // charged seconds / weight, advanced to the others' on joining after idleness
    double charged = 0;
    bool hungry = false;
  };
  bool first_in_line(int member) const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Member> members_;
  int holder_ = -1;
};

}  // namespace tutti::engine
