// A program that is not trusted, run to its end: without network, without a hand on other
// processes, with bounds on time, memory and output, and killed with all that it started.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tutti {

struct ProcessLimits {
  double seconds = 10;              // on the clock
  size_t memory = size_t(2) << 30;  // bytes of address space
  size_t output = size_t(1) << 20;  // bytes
  size_t file = 0;                  // bytes of any file that it writes
};

struct ProcessResult {
  enum End { kExit, kSignal, kTimeout, kOutput } end = kExit;
  int code = 0;        // exit status, or the signal
  std::string output;  // standard output and standard error as they came, up to the limit
};

// `arguments[0]` is looked up in PATH; `input` is its standard input; its environment is PATH
// alone, its folder "/", its user nobody where we are root. Namespaces of its own for processes,
// network and IPC; file systems are as they are: as root's nobody it reads what everybody may read,
// else all that our own user may read and change. Memory is bounded for each of its processes. One
// call at a time. Throws Error(kUnsupported) when the kernel gives no such namespaces, and
// Error(kNotFound | kSystem) when the program cannot be started.
ProcessResult run_confined(const std::vector<std::string>& arguments, std::string_view input,
                           const ProcessLimits& limits = {});

}  // namespace tutti
