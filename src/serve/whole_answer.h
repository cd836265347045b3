// Answers that come at once: no pieces, no stream.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "serve/http_server.h"
#include "serve/served_model.h"
#include "serve/text_request.h"

namespace tutti::serve {

// Bytes of text that the net thread, which all connections wait for, encodes itself: some
// milliseconds. More is encoded beside the engine.
inline constexpr size_t kEncodedAtOnce = size_t(64) << 10;

// The encoding of the texts that a program reads. `encode` owns what it touches, or the engine's
// Session does; it may throw ApiError.
struct TextsToRead {
  size_t bytes = 0;  // of all
  std::function<void(const std::stop_token&)> encode;
};

// Encodes `texts`, then starts `program`; its end is answered with `answer`, or with its error. A
// client that goes cancels it. The net thread encodes little itself: more is done beside the
// engine, as the request's own work. Throws ApiError when it cannot begin.
void answer_whole(std::shared_ptr<HttpExchange> exchange, Worker& worker, TextsToRead texts,
                  Program program, std::function<HttpResponse(const RunResult&)> answer);

// The tokens of a text that is only read, as the model wants them; ids stay as they are. Throws
// ApiError(400) naming `field` when there are none, too many for the context, or unknown ones.
std::vector<int32_t> tokens_to_read(const text::Tokenizer& tokenizer, const models::Config& config,
                                    const TextRequest::Prompt& text, const std::string& field);
// Throws the same when `tokens` are too many.
void check_fits(const models::Config& config, size_t tokens, const std::string& field);

}  // namespace tutti::serve
