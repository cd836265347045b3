#include "cli/grammar_options.h"

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "base/files.h"

namespace tutti::cli {

void GrammarOptions::add_to(CLI::App& app) {
  app.add_option("--grammar", grammar, "the text must be one of this grammar (GBNF, rule root)");
  app.add_option("--grammar-file", grammar_file, "the same, from a file");
  app.add_option("-j,--json-schema", schema,
                 "the text must be a JSON document of this schema; {} for any");
  app.add_option("--json-schema-file,--jf", schema_file, "the same, from a file");
  app.add_option("--regex", regex, "the text must match this regular expression, whole");
  app.add_flag("--json-object", json_object, "the text must be a JSON object");
}

std::optional<text::GrammarSource> GrammarOptions::source() const {
  using text::GrammarSource;
  std::vector<GrammarSource> sources;
  if (!grammar.empty()) sources.push_back({GrammarSource::kGbnf, grammar, {}});
  if (!grammar_file.empty()) sources.push_back({GrammarSource::kGbnf, read_file(grammar_file), {}});
  if (!schema.empty()) sources.push_back({GrammarSource::kJsonSchema, schema, {}});
  if (!schema_file.empty())
    sources.push_back({GrammarSource::kJsonSchema, read_file(schema_file), {}});
  if (!regex.empty()) sources.push_back({GrammarSource::kRegex, regex, {}});
  if (json_object) sources.push_back({GrammarSource::kJsonObject, "", {}});
  if (sources.size() > 1)
    throw Error(ErrorKind::kUsage,
                "--grammar, --json-schema, --regex and --json-object: give one of them");
  if (sources.empty()) return std::nullopt;
  return sources.front();
}

std::shared_ptr<const decode::Constraint> constraint_of(
    const std::optional<text::GrammarSource>& source, const Session& session) {
  if (!source) return nullptr;
  return decode::grammar_constraint(
      *source, text::TokenTree::of(session.tokenizer(), session.model().config().vocab));
}

}  // namespace tutti::cli
