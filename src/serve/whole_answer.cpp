#include "serve/whole_answer.h"

#include <exception>

#include "decode/pooled_states.h"
#include "engine/crossing.h"
#include "serve/api_error.h"

namespace tutti::serve {
namespace {

Program encoding_first(engine::Engine& engine, TextsToRead texts, Program program) {
  return [&engine, encode = std::move(texts.encode), program = std::move(program)](
             std::shared_ptr<engine::Request> request,
             decode::PieceSink sink) -> Task<std::vector<decode::Completion>> {
    co_await engine::offload(engine, encode);
    co_return co_await program(std::move(request), std::move(sink));
  };
}

}  // namespace

void answer_whole(std::shared_ptr<HttpExchange> exchange, Worker& worker, TextsToRead texts,
                  Program program, std::function<HttpResponse(const RunResult&)> answer) {
  if (texts.bytes > kEncodedAtOnce) {
    program = encoding_first(worker.engine(), std::move(texts), std::move(program));
  } else {
    texts.encode({});
  }
  const auto run = worker.start(
      std::move(program), {}, [exchange, answer = std::move(answer)](const RunResult& result) {
        exchange->on_gone({});
        if (result.error) return exchange->respond(error_response(api_error(result.error)));
        try {
          exchange->respond(answer(result));
        } catch (...) {
          exchange->respond(error_response(api_error(std::current_exception())));
        }
      });
  exchange->on_gone([&worker, weak = std::weak_ptr<Run>(run)] {
    if (const auto run = weak.lock()) worker.cancel(run);
  });
}

void check_fits(const models::Config& config, size_t tokens, const std::string& field) {
  const size_t most = size_t(config.context_length);
  if (tokens <= most) return;
  throw ApiError(400, "invalid_request_error",
                 field + ": " + std::to_string(tokens) + " tokens do not fit the context of " +
                     std::to_string(most) + " tokens; shorten it",
                 field, "context_length_exceeded");
}

std::vector<int32_t> tokens_to_read(const text::Tokenizer& tokenizer, const models::Config& config,
                                    const TextRequest::Prompt& text, const std::string& field) {
  std::vector<int32_t> tokens =
      text.ids ? *text.ids
               : tokenizer.encode(text.text, decode::reading_options(tokenizer, config));
  for (const int32_t id : tokens) {
    if (id >= tokenizer.vocab_size())
      throw invalid(field + ": token " + std::to_string(id) + " is not in the vocabulary", field);
  }
  if (tokens.empty()) throw invalid(field + ": is empty; give at least one token", field);
  check_fits(config, tokens.size(), field);
  return tokens;
}

}  // namespace tutti::serve
