#include "serve/api.h"

#include <boost/asio/post.hpp>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <utility>

#include "decode/method.h"
#include "formats/json_text.h"
#include "serve/api_error.h"
#include "serve/embeddings.h"
#include "serve/openapi.h"
#include "serve/rerank.h"
#include "serve/text_answer.h"
#include "serve/tokenize.h"
#include "serve/whole_answer.h"

namespace tutti::serve {
namespace {

// Of long bodies that wait to be read, together; one alone may be longer.
constexpr size_t kBytesToRead = size_t(64) << 20;

using Json = nlohmann::ordered_json;
using formats::print_json;

HttpResponse json_response(const Json& body) {
  HttpResponse response;
  response.body = print_json(body);
  return response;
}

// Takes the same time wherever the two differ.
bool equal_in_constant_time(std::string_view a, std::string_view b) {
  size_t different = a.size() ^ b.size();
  for (size_t i = 0; i < a.size(); ++i)
    different |= size_t(static_cast<unsigned char>(a[i]) ^
                        static_cast<unsigned char>(b.empty() ? 0 : b[i % b.size()]));
  return different == 0;
}

std::string new_id() {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  constexpr char kHex[] = "0123456789abcdef";
  std::string id;
  for (int i = 0; i < 24; ++i) id += kHex[random() % 16];
  return id;
}

// A client's own id, if it is harmless in logs and headers.
std::string id_of(const HttpRequest& request) {
  const std::string_view given = request.header("x-request-id");
  const bool plain = !given.empty() && given.size() <= 64 && std::ranges::all_of(given, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
  return plain ? std::string(given) : new_id();
}

}  // namespace

const Api::Entry Api::kRoutes[] = {
    {"POST", "/v1/chat/completions", &Api::chat, false},
    {"POST", "/v1/completions", &Api::completion, false},
    {"POST", "/v1/embeddings", &Api::embeddings, false},
    {"POST", "/v1/rerank", &Api::rerank, false},
    {"GET", "/v1/models", &Api::list_models, false},
    {"GET", "/health", &Api::health, true},
    {"GET", "/version", &Api::version, false},
    {"GET", "/openapi.json", &Api::openapi, false},
    {"GET", "/metrics", &Api::metrics, false},
    {"POST", "/tokenize", &Api::tokenize, false},
    {"POST", "/detokenize", &Api::detokenize, false},
    {"GET", "/", &Api::page, true},
    {"GET", "/v1/methods", &Api::methods, false},
    {"GET", "/tutti/events", &Api::events, false},
};

Api::Api(ApiOptions options, std::vector<ServedModel*> models)
    : options_(std::move(options)), models_(std::move(models)) {}

void Api::handle(std::shared_ptr<HttpExchange> exchange) {
  const std::string id = id_of(exchange->request());
  const auto start = std::chrono::steady_clock::now();
  for (const auto& [name, value] : headers_of_every_answer(id)) exchange->add_header(name, value);
  // The exchange must not own itself through its listener.
  exchange->on_closed([this, weak = std::weak_ptr<HttpExchange>(exchange), id, start](int status) {
    const auto exchange = weak.lock();
    if (!log_ || !exchange) return;
    log_(exchange->request(), id, status,
         std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  });
  try {
    route(exchange, id);
  } catch (...) {
    exchange->respond(error_response(api_error(std::current_exception())));
  }
}

Headers Api::headers_of_every_answer(const std::string& id) const {
  Headers headers{{"x-request-id", id}};
  if (!options_.allowed_origin.empty())
    headers.emplace_back("access-control-allow-origin", options_.allowed_origin);
  return headers;
}

std::optional<HttpResponse> Api::refuse_early(const HttpRequest& request) const {
  try {
    check_key(request);
    return std::nullopt;
  } catch (const ApiError& error) {
    HttpResponse response = error_response(error);
    const std::string id = id_of(request);
    for (auto& header : headers_of_every_answer(id)) response.headers.push_back(std::move(header));
    if (log_) log_(request, id, response.status, 0);
    return response;
  }
}

void Api::check_key(const HttpRequest& request) const {
  if (options_.keys.empty()) return;
  constexpr std::string_view kBearer = "Bearer ";
  std::string_view given = request.header("authorization");
  if (given.starts_with(kBearer))
    given.remove_prefix(kBearer.size());
  else
    given = request.header("x-api-key");
  bool right = false;
  for (const std::string& key : options_.keys) right |= equal_in_constant_time(given, key);
  if (!right) {
    throw ApiError(401, "authentication_error",
                   "the API key is missing or wrong; send \"Authorization: Bearer KEY\"", "",
                   "invalid_api_key");
  }
}

void Api::route(const std::shared_ptr<HttpExchange>& exchange, const std::string& id) {
  const HttpRequest& request = exchange->request();
  std::string path = request.path;
  constexpr std::string_view kModels = "/v1/models/";
  const bool one_model = path.starts_with(kModels);
  std::string allowed;
  const Entry* found = nullptr;
  for (const Entry& entry : kRoutes) {
    const bool same = path == entry.path || (one_model && entry.route == &Api::list_models);
    if (!same) continue;
    allowed += (allowed.empty() ? "" : ", ") + std::string(entry.method);
    if (request.method == entry.method ||
        (request.method == "HEAD" && std::string_view(entry.method) == "GET"))
      found = &entry;
  }
  if (request.method == "OPTIONS" && !allowed.empty() && !options_.allowed_origin.empty()) {
    HttpResponse response;
    response.status = 204;
    response.headers = {
        {"access-control-allow-methods", allowed},
        {"access-control-allow-headers", "authorization, content-type, x-api-key, x-request-id"}};
    return exchange->respond(std::move(response));
  }
  if (!found || !found->open) check_key(request);
  if (allowed.empty())
    throw ApiError(404, "not_found_error", "there is nothing at this path; see the documentation");
  if (!found) {
    HttpResponse response =
        error_response(ApiError(405, "invalid_request_error", "this path takes " + allowed));
    response.headers.emplace_back("allow", allowed);
    return exchange->respond(std::move(response));
  }
  if (request.method == "POST" && !request.header("content-type").starts_with("application/json")) {
    throw ApiError(415, "invalid_request_error",
                   "the body must be JSON; send \"Content-Type: application/json\"");
  }
  (this->*found->route)(exchange, id);
}

template <class Read, class Then>
void Api::with_body(const std::shared_ptr<HttpExchange>& exchange, Read read, Then then) {
  const std::string& body = exchange->request().body;
  if (body.size() <= kEncodedAtOnce) return then(read(body));
  if (reading_ > 0 && reading_bytes_ + body.size() > kBytesToRead) {
    ApiError error(429, "overloaded", "too many long bodies wait to be read; try later");
    error.retry_after = 1;
    throw error;
  }
  if (!reader_) reader_ = std::make_unique<asio::thread_pool>(1);
  ++reading_;
  reading_bytes_ += body.size();
  asio::post(*reader_, [this, exchange, back = exchange->executor(), read = std::move(read),
                        then = std::move(then)]() mutable {
    std::optional<decltype(read(exchange->request().body))> request;
    std::exception_ptr error;
    try {
      if (!exchange->gone()) request.emplace(read(exchange->request().body));
    } catch (...) {
      error = std::current_exception();
    }
    // The exchange goes back, whatever came of it.
    asio::post(back, [this, exchange = std::move(exchange), request = std::move(request), error,
                      then = std::move(then)]() mutable {
      --reading_;
      reading_bytes_ -= exchange->request().body.size();
      if (exchange->gone()) return;
      try {
        if (error) std::rethrow_exception(error);
        then(std::move(*request));
      } catch (...) {
        exchange->respond(error_response(api_error(std::current_exception())));
      }
    });
  });
}

ServedModel& Api::model_of(const std::string& name) {
  if (name.empty()) return *models_.front();
  std::string names;
  for (ServedModel* model : models_) {
    if (model->name == name || std::ranges::find(model->aliases, name) != model->aliases.end())
      return *model;
    names += (names.empty() ? "" : ", ") + model->name;
  }
  throw ApiError(404, "not_found_error",
                 "model " + print_json(name) + " is not served here; there is " + names, "model",
                 "model_not_found");
}

void Api::add_method_options(const ServedModel& model, decode::GenerationOptions& options) const {
  options.files = model.method_files;
  options.draft_model = model.draft_model;
  if (options.method == "auto") options.method = model.auto_method();
  for (const decode::MethodOption& option : decode::find_method(options.method).options) {
    const auto given = options_.method_options.find(std::string(option.name));
    if (given != options_.method_options.end()) options.method_options.insert(*given);
  }
}

void Api::text(TextRequest::Kind kind, const std::shared_ptr<HttpExchange>& exchange,
               const std::string& id) {
  const auto read = [kind, limits = options_.limits](const std::string& body) {
    return read_text_request(kind, body, limits);
  };
  with_body(exchange, read, [this, exchange, id](TextRequest request) {
    ServedModel& model = model_of(request.model);
    if (model.config().is_encoder())
      throw invalid("model " + model.name +
                        ": is an encoder, which reads texts and writes none; use /v1/embeddings or "
                        "/v1/rerank",
                    "model");
    add_method_options(model, request.options);
    answer_text(exchange, model, std::move(request), id);
  });
}

void Api::chat(const std::shared_ptr<HttpExchange>& exchange, const std::string& id) {
  text(TextRequest::Kind::kChat, exchange, id);
}
void Api::completion(const std::shared_ptr<HttpExchange>& exchange, const std::string& id) {
  text(TextRequest::Kind::kCompletion, exchange, id);
}

void Api::embeddings(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  const auto read = [limits = options_.limits](const std::string& body) {
    return read_embedding_request(body, limits);
  };
  with_body(exchange, read, [this, exchange](EmbeddingRequest request) {
    ServedModel& model = model_of(request.model);
    answer_embeddings(exchange, model, std::move(request));
  });
}

void Api::rerank(const std::shared_ptr<HttpExchange>& exchange, const std::string& id) {
  const auto read = [limits = options_.limits](const std::string& body) {
    return read_rerank_request(body, limits);
  };
  with_body(exchange, read, [this, exchange, id](RerankRequest request) {
    ServedModel& model = model_of(request.model);
    answer_rerank(exchange, model, std::move(request), id);
  });
}

void Api::openapi(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  std::vector<OpenApiRoute> routes;
  for (const Entry& entry : kRoutes) routes.push_back({entry.method, entry.path, entry.open});
  OpenApiModels models;
  models.vocabulary = models_.front()->tokenizer->vocab_size();
  for (const ServedModel* m : models_) {
    models.names.push_back(m->name);
    models.names.insert(models.names.end(), m->aliases.begin(), m->aliases.end());
    models.vocabulary = std::min(models.vocabulary, int(m->tokenizer->vocab_size()));
    if (std::ranges::find(models.dimensions, m->config().hidden) == models.dimensions.end())
      models.dimensions.push_back(m->config().hidden);
  }
  exchange->respond(
      json_response(openapi_document(routes, options_.version, options_.limits, models,
                                     !options_.keys.empty(), options_.server_options)));
}

void Api::list_models(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  const auto one = [](const ServedModel& m) {
    return Json{{"id", m.name},
                {"object", "model"},
                {"created", m.created},
                {"owned_by", "tutti"},
                {"max_model_len", m.config().context_length},
                {"meta",
                 {{"n_ctx_train", m.config().context_length},
                  {"n_vocab", m.config().vocab},
                  {"n_embd", m.config().hidden}}}};
  };
  constexpr std::string_view kPrefix = "/v1/models/";
  const std::string& path = exchange->request().path;
  if (path.starts_with(kPrefix))
    return exchange->respond(json_response(one(model_of(path.substr(kPrefix.size())))));
  Json data = Json::array();
  for (const ServedModel* m : models_) data.push_back(one(*m));
  exchange->respond(json_response({{"object", "list"}, {"data", std::move(data)}}));
}

void Api::health(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  if (draining_) throw ApiError(503, "unavailable_error", "the server is shutting down");
  exchange->respond(json_response({{"status", "ok"}}));
}

void Api::version(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  exchange->respond(json_response({{"version", options_.version}}));
}

void Api::tokenize(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  const auto read = [depth = options_.limits.depth](const std::string& body) {
    return read_tokenize_request(body, depth);
  };
  with_body(exchange, read, [this, exchange](TokenizeRequest request) {
    ServedModel& model = model_of(request.model);
    answer_tokenize(exchange, model, std::move(request));
  });
}

void Api::detokenize(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  const auto read = [depth = options_.limits.depth](const std::string& body) {
    return read_detokenize_request(body, depth);
  };
  with_body(exchange, read, [this, exchange](DetokenizeRequest request) {
    ServedModel& model = model_of(request.model);
    answer_detokenize(exchange, model, std::move(request));
  });
}

namespace {

// Of a model with a draft model: who wrote, and what drafting took.
void write_draft_metrics(MetricsPage& page, const ServedModel& model, const Labels& labels) {
  const WorkerMetrics& m = model.worker->metrics();
  page.gauge({"tutti:draft_model_up"},
             "1: the draft model drafts; 0: its engine has failed, and nothing is drafted.", labels,
             model.draft_model->failed() ? 0 : 1);
  page.counter({"tutti:draft_forwards_total"},
               "Forwards that draft, of a draft model or of the first layers.", labels,
               double(m.draft_forwards));
  for (const auto& [method, count] : m.methods) {
    Labels with = labels;
    with.emplace_back("method", method);
    page.counter({"tutti:choices_by_method_total"}, "Choices that were written, by their method.",
                 with, double(count));
  }
}

void write_metrics(MetricsPage& page, const ServedModel& model, const EngineSnapshot& now) {
  const Worker& worker = *model.worker;
  const WorkerMetrics& m = worker.metrics();
  const engine::EngineStatistics& e = now.statistics;
  const Labels labels{{"model_name", model.name}};
  const auto both = [](const std::string& name) {
    return std::vector<std::string>{"tutti:" + name, "vllm:" + name};
  };
  page.gauge(both("num_requests_running"), "Requests in the engine.", labels, worker.running());
  page.gauge(both("num_requests_waiting"), "Requests that wait for their turn.", labels,
             worker.queued());
  page.gauge(both("kv_cache_usage_perc"), "Share of the pages that are in use; 1 is all.", labels,
             now.pages > 0 ? 1.0 - double(now.free_pages) / now.pages : 0);
  page.gauge({"tutti:kv_pages"}, "Pages of keys and values.", labels, now.pages);
  page.gauge({"tutti:kv_pages_free"}, "Pages that nobody holds.", labels, now.free_pages);
  page.gauge({"tutti:kv_pages_cached"},
             "Pages that the prefix cache holds; requests may hold them, too.", labels,
             now.cached_pages);
  page.counter(both("prefix_cache_queries_total"),
               "Prompt tokens that were looked up in the prefix cache.", labels,
               double(m.prompt_tokens));
  page.counter(both("prefix_cache_hits_total"), "Prompt tokens that were found there.", labels,
               double(m.cached_tokens));
  page.counter(both("num_preemptions_total"), "Contexts whose pages were taken away.", labels,
               double(e.preemptions));
  page.counter(both("prompt_tokens_total"), "Tokens of prompts.", labels, double(m.prompt_tokens));
  page.counter(both("generation_tokens_total"), "Tokens that were generated.", labels,
               double(m.generated_tokens));
  for (const char* reason : {"stop", "length", "abort", "error"}) {
    Labels with = labels;
    with.emplace_back("finished_reason", reason);
    const auto it = m.finished.find(reason);
    page.counter(both("request_success_total"), "Choices and failed requests by how they ended.",
                 with, it == m.finished.end() ? 0 : double(it->second));
  }
  page.counter({"tutti:requests_refused_total"}, "Requests refused because the queue was full.",
               labels, double(m.refused));
  page.counter(both("spec_decode_num_draft_tokens_total"), "Tokens or steps that were tried ahead.",
               labels, double(m.proposed));
  page.counter(both("spec_decode_num_accepted_tokens_total"), "Of those, that stood.", labels,
               double(m.accepted));
  if (model.draft_model) write_draft_metrics(page, model, labels);
  page.counter({"tutti:ticks_total"}, "Forwards of the engine.", labels, double(e.ticks));
  page.counter({"tutti:rows_total"}, "Rows that were pushed through the model.", labels,
               double(e.rows));
  page.counter({"tutti:forward_seconds_total"}, "Time in forwards.", labels, e.forward_seconds);
  page.histogram(both("time_to_first_token_seconds"), "From arrival to the first text.", labels,
                 m.first_token);
  page.histogram({"tutti:inter_token_latency_seconds", "vllm:inter_token_latency_seconds",
                  "vllm:time_per_output_token_seconds"},
                 "Between two tokens.", labels, m.between_tokens);
  page.histogram(both("e2e_request_latency_seconds"), "From arrival to the end.", labels, m.whole);
  page.histogram(both("request_queue_time_seconds"), "Waiting for a turn.", labels, m.queue);
  page.histogram(both("request_inference_time_seconds"), "In the engine.", labels, m.inference);
  page.histogram(both("request_decode_time_seconds"), "From the first text to the end.", labels,
                 m.decode);
  page.histogram(both("request_prompt_tokens"), "Tokens of a prompt.", labels, m.prompt_lengths);
  page.histogram(both("request_generation_tokens"), "Tokens of a choice.", labels,
                 m.generated_lengths);
}

}  // namespace

void Api::metrics(const std::shared_ptr<HttpExchange>& exchange, const std::string&) {
  struct State {
    std::vector<EngineSnapshot> snapshots;
    size_t missing;
  };
  const auto state =
      std::make_shared<State>(State{std::vector<EngineSnapshot>(models_.size()), models_.size()});
  for (size_t i = 0; i < models_.size(); ++i) {
    models_[i]->worker->snapshot([this, exchange, state, i](const EngineSnapshot& now) {
      state->snapshots[i] = now;
      if (--state->missing > 0) return;
      MetricsPage page;
      for (size_t k = 0; k < models_.size(); ++k)
        write_metrics(page, *models_[k], state->snapshots[k]);
      HttpResponse response;
      response.type = "text/plain; version=0.0.4; charset=utf-8";
      response.body = page.text();
      exchange->respond(std::move(response));
    });
  }
}

}  // namespace tutti::serve
