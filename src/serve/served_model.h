// A model as clients know it.
#pragma once

#include <optional>
#include <string>

#include "serve/worker.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace tutti::serve {

struct ServedModel {
  std::string name;
  std::vector<std::string> aliases;
  int64_t created = 0;  // when it was loaded, seconds since 1970
  const text::Tokenizer* tokenizer = nullptr;
  std::optional<text::ChatTemplate> chat;
  Worker* worker = nullptr;

  const models::Config& config() const { return worker->engine().model().config(); }
};

}  // namespace tutti::serve
