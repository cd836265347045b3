// One line on a terminal's stderr that is written over: what a long run is doing.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace tutti::cli {

class ProgressLine {
 public:
  // Silent when `quiet` or when stderr is no terminal, and for the first half second.
  explicit ProgressLine(bool quiet) : on_(!quiet && isatty(STDERR_FILENO) != 0) {}
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  bool on() const { return on_; }
  // Whether it is time for a new text: ten times a second at most.
  bool due() {
    const auto now = Clock::now();
    if (!on_ || now < next_) return false;
    next_ = now + std::chrono::milliseconds(100);
    return true;
  }
  void show(const std::string& text) {
    if (!on_) return;
    std::fprintf(stderr, "\r\033[K%s", text.c_str());
    std::fflush(stderr);
    shown_ = true;
  }
  void clear() {
    if (shown_) std::fputs("\r\033[K", stderr);
    shown_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool on_;
  bool shown_ = false;
  Clock::time_point next_ = Clock::now() + std::chrono::milliseconds(500);
};

}  // namespace tutti::cli
