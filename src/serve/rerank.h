// POST /v1/rerank: documents in the order in which they answer a query (the form of Jina's and
// Cohere's API, as vLLM has it).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "serve/fields.h"
#include "serve/http_server.h"
#include "serve/served_model.h"
#include "serve/text_request.h"

namespace tutti::serve {

struct RerankRequest {
  std::string model;
  std::string query;
  std::vector<std::string> documents;
  int top_n = 0;  // 0: all
  bool return_documents = true;
};

// Throws ApiError naming the field. `log`, unless null, gets every field that was looked for.
RerankRequest read_rerank_request(std::string_view body, const RequestLimits& limits,
                                  FieldLog* log = nullptr);

// Answers `exchange` when the scores are there: of an encoder with a score head the sigmoid of its
// logit for (query, document), of any other model the cosine of their vectors, which are those of
// /v1/embeddings. Throws ApiError when it cannot begin.
void answer_rerank(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                   RerankRequest request, const std::string& request_id);

}  // namespace tutti::serve
