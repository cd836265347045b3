// For tests: whether a sanitizer is at work. It slows everything many times and keeps memory that
// was freed, so that bounds on seconds and bytes say nothing about the program.
#pragma once

namespace tutti {

#if defined(__has_feature)
#define TUTTI_HAS_FEATURE(x) __has_feature(x)
#else
#define TUTTI_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    TUTTI_HAS_FEATURE(address_sanitizer) || TUTTI_HAS_FEATURE(thread_sanitizer)
inline constexpr bool kInstrumented = true;
#else
inline constexpr bool kInstrumented = false;
#endif
#undef TUTTI_HAS_FEATURE

}  // namespace tutti
