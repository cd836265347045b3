// A model as clients know it.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "decode/grammar_constraint.h"
#include "decode/method.h"
#include "decode/method_files.h"
#include "decode/speculative/draft_model.h"
#include "serve/chat_format.h"
#include "serve/worker.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "vision/image_prompt.h"

namespace tutti::serve {

// What a model reads images with.
struct ImageReading {
  vision::VisionConfig config;
  std::shared_ptr<vision::ImageNetwork> network;
};

struct ServedModel {
  std::string name;
  std::vector<std::string> aliases;
  int64_t created = 0;  // when it was loaded, seconds since 1970
  const text::Tokenizer* tokenizer = nullptr;
  std::optional<text::ChatTemplate> chat;
  ChatFormat format;  // of `chat`
  Worker* worker = nullptr;
  std::shared_ptr<const decode::MethodFiles> method_files;             // null: none
  std::shared_ptr<const decode::speculative::DraftModel> draft_model;  // null: none
  std::shared_ptr<const ImageReading> images;                          // null: it reads none

  // What "auto" is: "draft" with a draft model that has not failed; else as decode::method_for
  // says.
  std::string_view auto_method() const;
  // Whether the draft model, files apart, is there that `method` needs, and it reads the model.
  bool runs(const decode::Method& method) const;

  // Of a grammar, compiled once and kept while it is among the last kGrammars that were asked for.
  // Throws ApiError(400).
  std::shared_ptr<const decode::Constraint> constraint(const text::GrammarSource& source);

  const models::Config& config() const { return worker->engine().model().config(); }

 private:
  static constexpr size_t kGrammars = 64;
  static constexpr int kPlaces = 10'000;  // of one grammar; beyond it begins anew
  struct Kept {
    std::shared_ptr<const decode::Constraint> constraint;
    uint64_t used = 0;
  };
  std::shared_ptr<const text::TokenTree> tokens_;
  std::map<text::GrammarSource, Kept> grammars_;
  uint64_t clock_ = 0;
};

}  // namespace tutti::serve
