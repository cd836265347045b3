#include "cli/verify_plain.h"

#include <algorithm>
#include <random>
#include <string>

#include "base/error.h"

namespace tutti::cli {

namespace {

std::string token_name(const text::Tokenizer& tokenizer, const decode::Completion& c, size_t at) {
  if (at >= c.ids.size()) return "the end (" + std::string(decode::name(c.finish)) + ")";
  return std::to_string(c.ids[at]) + " '" + tokenizer.decode(std::span(&c.ids[at], 1)) + "'";
}

// Tokens of `c`, the `choice`-th of the check.
size_t compare(const text::Tokenizer& tokenizer, const PlainCheck& check, size_t choice,
               const decode::Completion& c, const decode::Completion& plain) {
  const auto [a, b] = std::ranges::mismatch(c.ids, plain.ids);
  const size_t at = size_t(a - c.ids.begin());
  if (a == c.ids.end() && b == plain.ids.end() && c.finish == plain.finish) return at;
  std::string place = check.line > 0 ? "line " + std::to_string(check.line) + ", " : "";
  if (check.completions->size() > 1) place += "sample " + std::to_string(choice + 1) + ", ";
  throw Error(ErrorKind::kLimit, "method " + check.options->method +
                                     " differs from plain decoding: " + place + "token " +
                                     std::to_string(at + 1) + " of the answer is " +
                                     token_name(tokenizer, c, at) + ", plain decoding has " +
                                     token_name(tokenizer, plain, at));
}

}  // namespace

void fix_seed(decode::GenerationOptions& options) {
  if (!options.seed)
    options.seed = (uint64_t(std::random_device{}()) << 32) | std::random_device{}();
}

size_t verify_plain(engine::Engine& engine, const text::Tokenizer& tokenizer,
                    std::span<const PlainCheck> checks) {
  std::vector<std::vector<decode::Completion>> plain(checks.size());
  std::vector<std::exception_ptr> errors(checks.size());
  for (size_t i = 0; i < checks.size(); ++i) {
    const auto request = engine.new_request();
    engine.spawn(
        request,
        [&, i, request]() -> Task<void> {
          decode::GenerationOptions options = *checks[i].options;
          options.method = "plain";
          options.method_options.clear();
          plain[i] =
              co_await decode::generate(engine, tokenizer, request, *checks[i].prompt, options, {});
        },
        [&errors, i](std::exception_ptr error) { errors[i] = error; });
  }
  engine.run();
  size_t tokens = 0;
  for (size_t i = 0; i < checks.size(); ++i) {
    if (errors[i]) std::rethrow_exception(errors[i]);
    for (size_t c = 0; c < plain[i].size(); ++c) {
      tokens += compare(tokenizer, checks[i], c, (*checks[i].completions)[c], plain[i][c]);
    }
  }
  return tokens;
}

}  // namespace tutti::cli
