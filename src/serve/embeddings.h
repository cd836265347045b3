// POST /v1/embeddings: texts as vectors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "serve/fields.h"
#include "serve/http_server.h"
#include "serve/served_model.h"
#include "serve/text_request.h"

namespace tutti::serve {

struct EmbeddingRequest {
  std::string model;
  std::vector<TextRequest::Prompt> inputs;
  bool base64 = false;
  int dimensions = 0;  // 0: not said
};

// Throws ApiError naming the field. `log`, unless null, gets every field that was looked for.
EmbeddingRequest read_embedding_request(std::string_view body, const RequestLimits& limits,
                                        FieldLog* log = nullptr);

// Answers `exchange` when the vectors are there. Throws ApiError when it cannot begin.
void answer_embeddings(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                       EmbeddingRequest request);

}  // namespace tutti::serve
