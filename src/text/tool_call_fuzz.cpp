// Any bytes as what a model writes, in every format (the first byte says which and where to cut):
// nothing is lost that is no call, and the pieces do not matter. And any bytes as the rule of a
// forced call: an Error, or a grammar.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "text/grammar.h"
#include "text/reasoning_splitter.h"
#include "text/tool_call_grammar.h"
#include "text/tool_call_parser.h"

namespace {

using namespace tutti::text;

struct Result {
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;
  bool operator==(const Result&) const = default;
};

void add(const ToolText& out, Result& result) {
  result.content += out.content;
  for (const ToolCallPiece& piece : out.calls) {
    if (!piece.name.empty()) {
      if (size_t(piece.index) != result.calls.size()) std::abort();
      result.calls.emplace_back(piece.name, "");
    }
    if (size_t(piece.index) + 1 != result.calls.size()) std::abort();
    result.calls.back().second += piece.arguments;
  }
}

Result read(ToolFormat format, std::string_view text, size_t step) {
  ToolCallParser parser(format, {"f", "search"});
  Result result;
  for (size_t at = 0; at < text.size(); at += step) {
    ToolText out;
    parser.push(text.substr(at, step), out);
    add(out, result);
  }
  ToolText out;
  parser.finish(out);
  add(out, result);
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size > 4096) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto format = ToolFormat(data[0] % 7);
  const Result whole = read(format, text, size);
  if (read(format, text, 1) != whole || read(format, text, 1 + data[0] / 7) != whole) std::abort();
  for (const auto& [name, arguments] : whole.calls) {
    if (!is_tool_name(name)) std::abort();
  }
  // Without a call every byte is the text's.
  if (whole.calls.empty() && whole.content != text) std::abort();
  for (const bool inside : {false, true}) {
    std::string one[2], two[2];
    ReasoningSplitter a(inside), b(inside);
    a.push(text, one[0], one[1]);
    a.finish(one[0], one[1]);
    for (const char& c : text) b.push({&c, 1}, two[0], two[1]);
    b.finish(two[0], two[1]);
    if (one[0] != two[0] || one[1] != two[1]) std::abort();
  }
  try {
    const ToolCallRule rule = ToolCallRule::parse(std::string(text));
    static const auto tokens = std::make_shared<const TokenTree>(
        std::vector<std::string>{"{", "\"", "a", ""}, std::vector<int32_t>{3});
    GrammarLimits limits;
    limits.states = 5000;
    Grammar grammar(tool_call_rules(rule), tokens, limits);
    if (grammar.start() != Grammar::kNowhere) grammar.allowed(grammar.start());
  } catch (const tutti::Error&) {
  }
  return 0;
}
