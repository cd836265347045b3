// The routes of the page: the page itself, the methods it offers, the score it draws.
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "decode/method_json.h"
#include "formats/json_text.h"
#include "serve/api.h"
#include "serve/api_error.h"
#include "serve/page.h"
#include "serve/score_feed.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

std::string new_nonce() {
  std::random_device random;
  constexpr char kHex[] = "0123456789abcdef";
  std::string nonce;
  for (int word = 0; word < 4; ++word) {
    uint32_t bits = random();
    for (int i = 0; i < 8; ++i, bits >>= 4) nonce += kHex[bits & 15];
  }
  return nonce;
}

}  // namespace

void Api::page(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  if (!feed_) throw ApiError(404, "not_found_error", "the page is off (--no-page)");
  const std::string nonce = new_nonce();
  HttpResponse response;
  response.type = "text/html; charset=utf-8";
  response.body = page_html(nonce);
  response.headers = {
      {"content-security-policy",
       "default-src 'none'; script-src 'nonce-" + nonce + "'; style-src 'nonce-" + nonce +
           "'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
           "frame-ancestors 'none'"},
      {"x-content-type-options", "nosniff"},
      {"referrer-policy", "no-referrer"},
      {"cache-control", "no-store"}};
  exchange->respond(std::move(response));
}

void Api::methods(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  Json data = Json::array(), models = Json::array();
  for (const decode::Method& method : decode::methods()) data.push_back(decode::json_of(method));
  for (const ServedModel* model : models_) {
    Json names = Json::array();
    for (const decode::Method& method : decode::methods()) {
      if (model->runs(method)) names.push_back(method.name);
    }
    models.push_back({{"id", model->name},
                      {"chat", model->chat.has_value()},
                      {"max_model_len", model->config().context_length},
                      {"auto", model->config().is_encoder() ? Json() : Json(model->auto_method())},
                      {"methods", std::move(names)}});
  }
  HttpResponse response;
  response.body = formats::print_json(
      {{"object", "list"}, {"data", std::move(data)}, {"models", std::move(models)}});
  exchange->respond(std::move(response));
}

void Api::events(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  if (!feed_) throw ApiError(404, "not_found_error", "the score is off (--no-page)");
  if (exchange->request().method != "HEAD") return feed_->add(exchange);
  HttpResponse response;
  response.type = "text/event-stream";
  exchange->respond(std::move(response));
}

void Api::begin_drain() {
  draining_ = true;
  if (feed_) feed_->close();
}

}  // namespace tutti::serve
