// Engines on disjoint cores of one machine, and cores that go from one engine to another while both
// run: a drafter's core serves the target while there is nothing to draft.
#pragma once

#include <functional>
#include <mutex>
#include <vector>

namespace tutti::engine {

class CoreSplit {
 public:
  // The cores of each member at the start; an empty list is a member that waits. Throws
  // Error(kUsage) when a core is named twice or is negative, or when there is no member.
  explicit CoreSplit(std::vector<std::vector<int>> cores);

  int members() const { return int(members_.size()); }
  // The cores that are, or will be at its next tick, `member`'s.
  std::vector<int> cores(int member) const;

  // Gives the last `count` cores of `from` to `to`. Any thread may call it. A forward of `from`
  // that runs now keeps them until it ends; `to` has them in its first tick after that. A member
  // without cores computes nothing, but its programs, timers and cancellations go on. Throws
  // Error(kUsage) when `from` has fewer.
  void move(int from, int to, int count);

  // For the engine that is `member`: `wake` is called, on any thread, when it gets cores that it
  // may be waiting for. An empty function ends that.
  void on_cores(int member, std::function<void()> wake);
  // Starts a forward: its cores until end(), or none when there are none now.
  std::vector<int> begin(int member);
  void end(int member);

 private:
  struct Leaving {
    int core;
    int to;
  };
  struct Member {
    std::vector<int> held;         // what its next forward computes with
    std::vector<int> coming;       // its own already, but still under another's forward
    std::vector<Leaving> leaving;  // still under its forward, owed to others when that ends
    std::vector<int> computing;    // under its forward, if one runs
    std::function<void()> wake;
  };
  void check(int member) const;

  mutable std::mutex mutex_;
  std::vector<Member> members_;
};

}  // namespace tutti::engine
