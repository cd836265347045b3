// A second, smaller model on an engine of its own, which drafts for a first.
#pragma once

#include "engine/engine.h"
#include "text/tokenizer.h"

namespace tutti::decode::speculative {

class DraftModel {
 public:
  // `engine` runs in serve() on a thread of its own as long as anybody drafts with it. Throws
  // Error(kUnsupported) when the models do not write the same tokens: the sizes of the vocabularies
  // may differ by padding, their common ids may not, and the same ids end a text.
  DraftModel(engine::Engine& engine, const text::Tokenizer& tokenizer,
             const text::Tokenizer& target);

  engine::Engine& engine() const { return engine_; }
  // Ids below are the same in both.
  int vocabulary() const { return vocabulary_; }

 private:
  engine::Engine& engine_;
  int vocabulary_;
};

}  // namespace tutti::decode::speculative
