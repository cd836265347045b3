#include "serve/served_model.h"

#include <algorithm>

#include "serve/api_error.h"

namespace tutti::serve {

std::string_view ServedModel::auto_method() const {
  return draft_model && !draft_model->failed() ? "draft"
                                               : decode::method_for("auto", config()).name;
}

bool ServedModel::runs(const decode::Method& method) const {
  if (method.more_weights) {
    // PEARL drafts while the model verifies, which takes cores for each.
    const bool two_core_sets = draft_model && draft_model->cores();
    return method.name == "pearl" ? two_core_sets : method.name == "draft" && draft_model;
  }
  try {
    decode::method_for(method.name, config());
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::shared_ptr<const decode::Constraint> ServedModel::constraint(
    const text::GrammarSource& source) {
  if (!tokens_) tokens_ = text::TokenTree::of(*tokenizer, config().vocab);
  auto it = grammars_.find(source);
  if (it != grammars_.end() && decode::places_kept(*it->second.constraint) > kPlaces) {
    grammars_.erase(it);
    it = grammars_.end();
  }
  if (it == grammars_.end()) {
    try {
      it = grammars_.emplace(source, Kept{decode::grammar_constraint(source, tokens_), 0}).first;
    } catch (const Error& e) {
      const char* field = source.kind == text::GrammarSource::kJsonSchema  ? "response_format"
                          : source.kind == text::GrammarSource::kToolCalls ? "tools"
                                                                           : "grammar";
      throw invalid(e.what(), field);
    }
  }
  it->second.used = ++clock_;
  const auto constraint = it->second.constraint;
  if (grammars_.size() > kGrammars) {
    grammars_.erase(
        std::ranges::min_element(grammars_, {}, [](const auto& g) { return g.second.used; }));
  }
  return constraint;
}

}  // namespace tutti::serve
