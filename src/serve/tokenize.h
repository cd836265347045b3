// POST /tokenize and /detokenize: texts as tokens, and back.
#pragma once

#include <memory>

#include "serve/http_server.h"
#include "serve/served_model.h"
#include "serve/text_request.h"

namespace tutti::serve {

// Answer `exchange`, whose body is `body`, now or, where it is long, when that was done beside the
// model's engine. Throw ApiError when they cannot begin.
void answer_tokenize(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                     nlohmann::ordered_json body);
void answer_detokenize(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                       nlohmann::ordered_json body);

}  // namespace tutti::serve
