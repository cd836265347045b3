// The routes: which request is whose, who may ask, and how each is answered.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "serve/http_server.h"
#include "serve/served_model.h"
#include "serve/text_request.h"

namespace tutti::serve {

struct ApiOptions {
  std::vector<std::string> keys;  // any of them opens everything but /health; none: open to all
  std::string allowed_origin;     // CORS; empty: none
  std::string version;
  RequestLimits limits;
  // Of methods, by name: what a request does not say itself, where its method has the option. Files
  // that they name are in ServedModel::method_files.
  std::map<std::string, std::string> method_options;
  nlohmann::ordered_json server_options;  // for /openapi.json: an array, or null
};

class ScoreFeed;

class Api {
 public:
  // `models` must not be empty, and outlive this; the first answers requests that name none.
  Api(ApiOptions options, std::vector<ServedModel*> models);

  void handle(std::shared_ptr<HttpExchange> exchange);
  // A request with a body and a wrong key, before its body is read: the answer that refuses it. No
  // path that is open to all takes a body, so that whoever sends one needs a key.
  std::optional<HttpResponse> refuse_early(const HttpRequest& request) const;
  void begin_drain();  // /health says 503 from now on
  // Long bodies that are being read, on another thread.
  int reading() const { return reading_; }
  // Null: no page, and no score. It must outlive this.
  void show_page(ScoreFeed* feed) { feed_ = feed; }
  // One line about each answered request.
  void on_log(
      std::function<void(const HttpRequest&, const std::string& id, int status, double seconds)>
          log) {
    log_ = std::move(log);
  }

 private:
  using Route = void (Api::*)(const std::shared_ptr<HttpExchange>&, const std::string& id);
  struct Entry {
    const char* method;
    const char* path;
    Route route;
    bool open;  // without a key
  };
  static const Entry kRoutes[];

  void route(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  // Goes on with then(read(body)): at once, or, where the body is long, when another thread has
  // read it. `read` touches nothing else; what either throws is the answer. Throws ApiError(429)
  // when too many bytes wait to be read.
  template <class Read, class Then>
  void with_body(const std::shared_ptr<HttpExchange>& exchange, Read read, Then then);
  void check_key(const HttpRequest& request) const;
  Headers headers_of_every_answer(const std::string& id) const;
  ServedModel& model_of(const std::string& name);
  void add_method_options(const ServedModel& model, decode::GenerationOptions& options) const;
  void chat(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void completion(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void text(TextRequest::Kind kind, const std::shared_ptr<HttpExchange>& exchange,
            const std::string& id);
  void embeddings(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void rerank(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void openapi(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void list_models(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void health(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void version(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void metrics(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void tokenize(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void detokenize(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);

  void page(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void methods(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);
  void events(const std::shared_ptr<HttpExchange>& exchange, const std::string& id);

  ApiOptions options_;
  std::vector<ServedModel*> models_;
  ScoreFeed* feed_ = nullptr;
  bool draining_ = false;
  std::function<void(const HttpRequest&, const std::string&, int, double)> log_;
  int reading_ = 0;
  size_t reading_bytes_ = 0;
  std::unique_ptr<asio::thread_pool> reader_;  // made when first used; joined before all else goes
};

}  // namespace tutti::serve
