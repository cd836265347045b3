// From a request for text to its JSON, whole or as a stream of events: OpenAI's objects for chats
// and completions.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "serve/http_server.h"
#include "serve/served_model.h"
#include "serve/text_request.h"

namespace tutti::serve {

// Starts the runs that `request` needs and answers `exchange` when they end, or event by event. A
// client that goes away cancels them. Throws ApiError when it cannot begin.
void answer_text(std::shared_ptr<HttpExchange> exchange, ServedModel& model, TextRequest request,
                 const std::string& request_id);

}  // namespace tutti::serve
