#include "serve/tokenize.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "decode/pooled_states.h"
#include "formats/json_text.h"
#include "serve/api_error.h"
#include "serve/text_request.h"
#include "serve/whole_answer.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

bool flag_of(const Json& body, const char* name, const char* other, bool absent) {
  const auto it = body.contains(name) ? body.find(name) : body.find(other);
  if (it == body.end()) return absent;
  if (!it->is_boolean()) throw invalid(std::string(name) + ": must be true or false", name);
  return it->get<bool>();
}

std::string model_named(const Json& body) {
  const auto name = body.find("model");
  return name != body.end() && name->is_string() ? name->get<std::string>() : "";
}

Task<std::vector<decode::Completion>> nothing_more() {
  co_return std::vector<decode::Completion>();
}

// Answers with the JSON that `make` gives; it may run on another thread, and throw ApiError.
void answer_made(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                 std::function<std::string()> make) {
  const size_t bytes = exchange->request().body.size();
  if (bytes <= kEncodedAtOnce) {
    HttpResponse response;
    response.body = make();
    return exchange->respond(std::move(response));
  }
  const auto made = std::make_shared<std::string>();  // written before the run ends, read after
  TextsToRead texts;
  texts.bytes = bytes;
  texts.encode = [made, make = std::move(make)](const std::stop_token&) { *made = make(); };
  answer_whole(
      std::move(exchange), *model.worker, std::move(texts),
      [](std::shared_ptr<engine::Request>, const decode::PieceSink&) { return nothing_more(); },
      [made](const RunResult&) {
        HttpResponse response;
        response.body = std::move(*made);
        return response;
      });
}

std::string tokens_as_json(const text::Tokenizer& tokenizer, const std::string& text,
                           const text::EncodeOptions& options, int context, bool with_pieces) {
  const std::vector<int32_t> ids = tokenizer.encode(text, options);
  Json reply{{"tokens", ids}, {"count", ids.size()}, {"max_model_len", context}};
  if (with_pieces) {
    Json pieces = Json::array();
    for (const int32_t id : ids) pieces.push_back(std::string(tokenizer.token_bytes(id)));
    reply["pieces"] = std::move(pieces);
  }
  return formats::print_json(reply);
}

}  // namespace

TokenizeRequest read_tokenize_request(std::string_view body, int depth) {
  Json json = read_body(body, depth);
  const char* field = json.contains("content") ? "content" : "prompt";  // llama.cpp's name, vLLM's
  const auto text = json.find(field);
  if (text == json.end() || !text->is_string())
    throw invalid(std::string(field) + ": must be a string", field);
  TokenizeRequest request;
  request.model = model_named(json);
  request.add_special = flag_of(json, "add_special", "add_special_tokens", json.contains("prompt"));
  request.parse_special = flag_of(json, "parse_special", "parse_special_tokens", true);
  request.with_pieces = flag_of(json, "with_pieces", "return_token_strs", false);
  request.text = std::move(text->get_ref<std::string&>());
  return request;
}

DetokenizeRequest read_detokenize_request(std::string_view body, int depth) {
  const Json json = read_body(body, depth);
  const auto tokens = json.find("tokens");
  if (tokens == json.end() || !tokens->is_array())
    throw invalid("tokens: must be an array of token ids", "tokens");
  DetokenizeRequest request;
  request.model = model_named(json);
  for (const Json& one : *tokens) {
    if (!one.is_number_integer() || one < 0 || one > INT32_MAX)
      throw invalid("tokens: must hold token ids, whole numbers from 0", "tokens");
    request.tokens.push_back(one.get<int32_t>());
  }
  return request;
}

void answer_tokenize(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                     TokenizeRequest request) {
  text::EncodeOptions options;
  if (request.add_special) options = decode::reading_options(*model.tokenizer, model.config());
  options.parse_special = request.parse_special;
  answer_made(std::move(exchange), model,
              [&tokenizer = *model.tokenizer, text = std::move(request.text), options,
               context = model.config().context_length, with_pieces = request.with_pieces] {
                return tokens_as_json(tokenizer, text, options, context, with_pieces);
              });
}

void answer_detokenize(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                       DetokenizeRequest request) {
  for (const int32_t id : request.tokens) {
    if (id >= model.tokenizer->vocab_size()) {
      throw invalid(
          "tokens: must hold token ids below " + std::to_string(model.tokenizer->vocab_size()),
          "tokens");
    }
  }
  answer_made(std::move(exchange), model,
              [&tokenizer = *model.tokenizer, ids = std::move(request.tokens)] {
                const std::string text = tokenizer.decode(ids);
                return formats::print_json({{"content", text}, {"prompt", text}});
              });
}

}  // namespace tutti::serve
