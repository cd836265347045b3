#include "serve/whole_answer.h"

#include <exception>

#include "serve/api_error.h"

namespace tutti::serve {

void answer_whole(std::shared_ptr<HttpExchange> exchange, Worker& worker, Program program,
                  std::function<HttpResponse(const RunResult&)> answer) {
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

void check_fits(const ServedModel& model, size_t tokens, const std::string& field) {
  const size_t most = size_t(model.config().context_length);
  if (tokens <= most) return;
  throw ApiError(400, "invalid_request_error",
                 field + ": " + std::to_string(tokens) + " tokens do not fit the context of " +
                     std::to_string(most) + " tokens; shorten it",
                 field, "context_length_exceeded");
}

std::vector<int32_t> tokens_to_read(const ServedModel& model, const TextRequest::Prompt& text,
                                    const std::string& field) {
  const text::Tokenizer& t = *model.tokenizer;
  text::EncodeOptions encode;
  encode.add_bos = t.add_bos_default();
  encode.add_eos = model.config().is_encoder() && t.add_eos_default();
  std::vector<int32_t> tokens = text.ids ? *text.ids : t.encode(text.text, encode);
  for (const int32_t id : tokens) {
    if (id >= t.vocab_size())
      throw invalid(field + ": token " + std::to_string(id) + " is not in the vocabulary", field);
  }
  if (tokens.empty()) throw invalid(field + ": is empty; give at least one token", field);
  check_fits(model, tokens.size(), field);
  return tokens;
}

}  // namespace tutti::serve
