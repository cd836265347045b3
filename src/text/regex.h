// Regular expressions over UTF-8 with the meaning the `tokenizers` library gives them (oniguruma,
// Ruby syntax), run by PCRE2 with its JIT. Where the two differ the pattern is rewritten: \s and \w
// are spelled out, and the general categories also hold the code points that Unicode 15 and 16
// assigned.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace tutti::text {

struct Range {
  size_t begin = 0, end = 0;
  size_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

class Regex {
 public:
  // Throws Error(kUnsupported) that names the pattern: not a pattern, or one that means something
  // else here.
  explicit Regex(std::string_view pattern);

  const std::string& pattern() const { return pattern_; }

 private:
  friend class RegexScan;
  struct Code;
  std::string pattern_;
  std::shared_ptr<const Code> plain_;  // right for text below U+0800, and quicker there
  std::shared_ptr<const Code> wide_;   // with the additions of Unicode 15 and 16
};

// Matches of one expression in one text, which must be valid UTF-8 and outlive the scan. An
// expression may be scanned with by several threads, a scan by one.
class RegexScan {
 public:
  RegexScan(const Regex& regex, std::string_view text);
  ~RegexScan();
  RegexScan(const RegexScan&) = delete;
  RegexScan& operator=(const RegexScan&) = delete;

  // The first match at or after the code point boundary `from`; offsets are bytes. Throws
  // Error(kLimit) when it takes more steps than any honest pattern needs.
  std::optional<Range> find(size_t from);

 private:
  const Regex& regex_;
  const Regex::Code& code_;
  std::string_view text_;
  void* match_ = nullptr;
};

// A pattern that matches exactly `literal`.
std::string escape_pattern(std::string_view literal);

// The pattern in PCRE2's syntax. `wide` adds the newer code points. Throws Error(kUnsupported).
std::string pcre_pattern(std::string_view pattern, bool wide);

}  // namespace tutti::text
