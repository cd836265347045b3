#include "engine/cores.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "base/error.h"

namespace tutti::engine {

CoreSplit::CoreSplit(std::vector<std::vector<int>> cores) {
  if (cores.empty()) throw Error(ErrorKind::kUsage, "core split: has no members");
  std::set<int> seen;
  for (auto& list : cores) {
    for (const int core : list) {
      if (core < 0 || !seen.insert(core).second) {
        throw Error(ErrorKind::kUsage,
                    "core split: core " + std::to_string(core) + " is negative or named twice");
      }
    }
    members_.emplace_back().held = std::move(list);
  }
}

void CoreSplit::check(int member) const {
  if (member < 0 || member >= members()) {
    throw Error(ErrorKind::kUsage, "core split: member " + std::to_string(member) + " of " +
                                       std::to_string(members()));
  }
}

std::vector<int> CoreSplit::cores(int member) const {
  check(member);
  const std::scoped_lock lock(mutex_);
  const Member& self = members_[size_t(member)];
  std::vector<int> all = self.held;
  all.insert(all.end(), self.coming.begin(), self.coming.end());
  return all;
}

void CoreSplit::move(int from, int to, int count) {
  check(from);
  check(to);
  std::function<void()> wake;
  {
    const std::scoped_lock lock(mutex_);
    Member& giver = members_[size_t(from)];
    Member& taker = members_[size_t(to)];
    const int owned = int(giver.held.size() + giver.coming.size());
    if (count < 0 || count > owned) {
      throw Error(ErrorKind::kUsage, "core split: member " + std::to_string(from) + " has " +
                                         std::to_string(owned) + " cores, not " +
                                         std::to_string(count) + " to give");
    }
    if (from == to) return;
    for (; count > 0; --count) {
      if (!giver.coming.empty()) {
        // Passed on before it arrived: whoever computes on it now will hand it to the new owner.
        const int core = giver.coming.back();
        giver.coming.pop_back();
        for (auto& holder : members_) {
          const auto it = std::find_if(holder.leaving.begin(), holder.leaving.end(),
                                       [&](const Leaving& l) { return l.core == core; });
          if (it == holder.leaving.end()) continue;
          if (&holder == &taker) {  // back to where it never left
            holder.leaving.erase(it);
            holder.held.push_back(core);
          } else {
            it->to = to;
            taker.coming.push_back(core);
          }
          break;
        }
        continue;
      }
      const int core = giver.held.back();
      giver.held.pop_back();
      if (std::find(giver.computing.begin(), giver.computing.end(), core) !=
          giver.computing.end()) {
        giver.leaving.push_back({core, to});
        taker.coming.push_back(core);
      } else {
        taker.held.push_back(core);
        wake = taker.wake;
      }
    }
    // Called under the lock: an engine that says goodbye (on_cores) is not called any more when
    // that returns.
    if (wake) wake();
  }
}

void CoreSplit::on_cores(int member, std::function<void()> wake) {
  check(member);
  const std::scoped_lock lock(mutex_);
  members_[size_t(member)].wake = std::move(wake);
}

std::vector<int> CoreSplit::begin(int member) {
  const std::scoped_lock lock(mutex_);
  Member& self = members_[size_t(member)];
  self.computing = self.held;
  return self.held;
}

void CoreSplit::end(int member) {
  const std::scoped_lock lock(mutex_);
  Member& self = members_[size_t(member)];
  self.computing.clear();
  for (const Leaving& leaving : self.leaving) {
    Member& taker = members_[size_t(leaving.to)];
    std::erase(taker.coming, leaving.core);
    taker.held.push_back(leaving.core);
    if (taker.wake) taker.wake();
  }
  self.leaving.clear();
}

}  // namespace tutti::engine
