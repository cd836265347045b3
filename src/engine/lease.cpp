#include "engine/lease.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace tutti::engine {

int CoreLease::join(double weight) {
  if (!(weight > 0)) {
    throw Error(ErrorKind::kUsage,
                "core lease: weight " + std::to_string(weight) + " is not positive");
  }
  const std::scoped_lock lock(mutex_);
  Member member;
  member.weight = weight;
  members_.push_back(member);
  return int(members_.size()) - 1;
}

void CoreLease::set_hungry(int member, bool hungry) {
  {
    const std::scoped_lock lock(mutex_);
    Member& self = members_[size_t(member)];
    if (hungry && !self.hungry) {
      // Time spent idle is not saved up: come back level with the hungriest of the others.
      double least = -1;
      for (const auto& other : members_) {
        if (other.hungry && (least < 0 || other.time < least)) least = other.time;
      }
      if (least >= 0) self.time = std::max(self.time, least);
    }
    self.hungry = hungry;
  }
  changed_.notify_all();
}

bool CoreLease::first_in_line(int member) const {
  const Member& self = members_[size_t(member)];
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& other = members_[i];
    if (int(i) == member || !other.hungry) continue;
    if (other.time < self.time || (other.time == self.time && int(i) < member)) return false;
  }
  return true;
}

void CoreLease::acquire(int member) {
  set_hungry(member, true);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return holder_ < 0 && first_in_line(member); });
  holder_ = member;
}

void CoreLease::release(int member, double seconds) {
  {
    const std::scoped_lock lock(mutex_);
    holder_ = -1;
    Member& self = members_[size_t(member)];
    self.charged += seconds;
    self.time += seconds / self.weight;
  }
  changed_.notify_all();
}

double CoreLease::charged(int member) const {
  const std::scoped_lock lock(mutex_);
  return members_[size_t(member)].charged;
}

}  // namespace tutti::engine
