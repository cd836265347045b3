// What a text may be: --grammar, --json-schema and the like.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cli/session.h"
#include "decode/grammar_constraint.h"

namespace CLI {
class App;
}

namespace tutti::cli {

struct GrammarOptions {
  std::string grammar, grammar_file, schema, schema_file, regex;
  bool json_object = false;

  void add_to(CLI::App& app);
  // None: any text. Throws Error(kUsage) for two of them, or a file that cannot be read.
  std::optional<text::GrammarSource> source() const;
};

// Null without a source. Throws what the source has against itself.
std::shared_ptr<const decode::Constraint> constraint_of(
    const std::optional<text::GrammarSource>& source, const Session& session);

}  // namespace tutti::cli
