// Any bytes as a grammar, a regular expression or a schema (the first byte says which): an Error,
// or a grammar that can be walked and whose masks are what its steps say.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/gbnf.h"
#include "text/grammar.h"
#include "text/json_schema_grammar.h"
#include "text/regex_grammar.h"

namespace {

tutti::text::GrammarRules rules_of(char kind, std::string_view text) {
  using namespace tutti::text;
  if (kind == 'g') return parse_gbnf(text);
  if (kind == 's') {
    const auto schema = nlohmann::ordered_json::parse(text, nullptr, false);
    if (schema.is_discarded()) throw tutti::Error(tutti::ErrorKind::kUsage, "no JSON");
    return json_schema_rules(schema);
  }
  GrammarRules rules;
  rules.add("root", regex_expression(text, kind == 'r'));
  return rules;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  if (size == 0 || size > 4096) return 0;
  static const auto tokens = [] {
    std::vector<std::string> bytes;
    for (int b = 0; b < 256; ++b) bytes.emplace_back(1, char(b));
    for (const char* more : {"{\"", "\":", "ab", "]}", ""}) bytes.emplace_back(more);
    return std::make_shared<text::TokenTree>(bytes,
                                             std::vector<int32_t>{int32_t(bytes.size()) - 1});
  }();
  text::GrammarLimits limits;
  limits.states = 5000;
  limits.places = 500;
  limits.sets = 2000;
  limits.depth = 20;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    text::Grammar grammar(rules_of(char(data[0]), text), tokens, limits);
    text::Grammar::State state = grammar.start();
    for (size_t i = 0; i < 64 && state != text::Grammar::kNowhere; ++i) {
      const auto mask = grammar.allowed(state);
      const uint8_t byte = data[i % size];
      const text::Grammar::State next =
          grammar.advance(state, std::string_view(reinterpret_cast<const char*>(&byte), 1));
      if (bool((*mask)[byte / 64] >> (byte % 64) & 1) != (next != text::Grammar::kNowhere))
        std::abort();
      state = next;
    }
  } catch (const Error&) {
  }
  return 0;
}
