// The one exception of the program: an error that a person can act on.
#pragma once

#include <stdexcept>
#include <string>

namespace tutti {

// What went wrong, as far as an exit code or an HTTP status needs to know.
enum class ErrorKind {
  kUsage,  // the caller asked for something that does not exist or makes no sense: exit 2, HTTP 400
  kNotFound,     // a named file, model or object is absent: exit 1, HTTP 404
  kBadFile,      // a file is malformed, truncated or hostile: exit 1
  kUnsupported,  // well-formed, but nothing we can run: exit 1, HTTP 400
  kLimit,        // a stated limit was reached (memory, context, queue): exit 1, HTTP 429 or 503
  kCancelled,    // the caller went away: exit 1
  kSystem,       // the operating system refused: exit 1, HTTP 500
};

// Message convention: "<place>: <what is wrong>; <what to do>", one line, no trailing period.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  int exit_code() const { return kind_ == ErrorKind::kUsage ? 2 : 1; }

 private:
  ErrorKind kind_;
};

}  // namespace tutti
