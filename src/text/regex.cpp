#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "base/error.h"

namespace tutti::text {
namespace {

// Steps of one match: the patterns of published tokenizers need a small multiple of the text's
// length.
constexpr uint32_t kMatchLimit = 20'000'000;
constexpr uint32_t kHeapLimitKiB = 64 * 1024;
constexpr size_t kMaxPattern = 16 * 1024;

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;

  explicit Code(const std::string& pattern, std::string_view original) {
    int error = 0;
    size_t offset = 0;
    pcre2_compile_context* options = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(options, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(options, 50);
    // Ruby's ^ and $ are line anchors, hence MULTILINE.
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                         &offset, options);
    pcre2_compile_context_free(options);
    if (code == nullptr) {
      PCRE2_UCHAR message[160];
      pcre2_get_error_message(error, message, sizeof message);
      throw Error(ErrorKind::kUnsupported, "regular expression \"" + std::string(original) +
                                               "\": " + reinterpret_cast<const char*>(message) +
                                               "; it cannot be used");
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where there is no JIT the interpreter serves
    context = pcre2_match_context_create(nullptr);
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKiB);
  }
  ~Code() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

Regex::Regex(std::string_view pattern) : pattern_(pattern) {
  if (pattern.size() > kMaxPattern) {
    throw Error(ErrorKind::kUnsupported, "regular expression of " + std::to_string(pattern.size()) +
                                             " bytes; the limit is " + std::to_string(kMaxPattern));
  }
  const std::string plain = pcre_pattern(pattern, false);
  const std::string wide = pcre_pattern(pattern, true);
  plain_ = std::make_shared<const Code>(plain, pattern);
  wide_ = wide == plain ? plain_ : std::make_shared<const Code>(wide, pattern);
}

RegexScan::RegexScan(const Regex& regex, std::string_view text)
    : regex_(regex),
      code_(std::any_of(text.begin(), text.end(), [](char c) { return uint8_t(c) >= 0xE0; })
                ? *regex.wide_
                : *regex.plain_),
      text_(text),
      match_(pcre2_match_data_create(1, nullptr)) {}

RegexScan::~RegexScan() { pcre2_match_data_free(static_cast<pcre2_match_data*>(match_)); }

std::optional<Range> RegexScan::find(size_t from) {
  const auto match = static_cast<pcre2_match_data*>(match_);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
  int rc = pcre2_match(code_.code, subject, text_.size(), from, PCRE2_NO_UTF_CHECK, match,
                       code_.context);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
    rc = pcre2_match(code_.code, subject, text_.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                     match, code_.context);
  }
  if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (rc < 0) {
    throw Error(ErrorKind::kLimit, "regular expression \"" + regex_.pattern() +
                                       "\": a match takes too many steps; split the text");
  }
  const size_t* bounds = pcre2_get_ovector_pointer(match);
  return Range{bounds[0],
               std::max(bounds[0], bounds[1])};  // \K is refused, lookbehind may not reorder
}

}  // namespace tutti::text
