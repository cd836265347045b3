// POST /tokenize and /detokenize: texts as tokens, and back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "serve/http_server.h"
#include "serve/served_model.h"

namespace tutti::serve {

struct TokenizeRequest {
  std::string model, text;
  bool add_special = false, parse_special = true, with_pieces = false;
};
struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;  // from 0
};

// Throw ApiError naming the field. `depth`: see read_body.
TokenizeRequest read_tokenize_request(std::string_view body, int depth);
DetokenizeRequest read_detokenize_request(std::string_view body, int depth);

// Answer `exchange`, now or, where its body is long, when that was done beside the model's engine.
// Throw ApiError when they cannot begin.
void answer_tokenize(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                     TokenizeRequest request);
void answer_detokenize(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                       DetokenizeRequest request);

}  // namespace tutti::serve
