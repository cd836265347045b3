// Every connection is a descriptor; the usual soft limit is no more than what a program needs for
// itself.
#pragma once

#include <sys/resource.h>

namespace tutti::cli {

inline void raise_descriptor_limit() {
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace tutti::cli
