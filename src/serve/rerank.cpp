#include "serve/rerank.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <stop_token>

#include "decode/encoder_states.h"
#include "decode/pooled_states.h"
#include "formats/json_text.h"
#include "serve/api_error.h"
#include "serve/whole_answer.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

// What an engine's thread works on.
struct RerankJob {
  engine::Engine* engine;
  RerankRequest request;
  std::vector<decode::EncoderInput> pairs;  // of a model with a score head; else
  std::vector<std::vector<int32_t>> texts;  // the query, and the documents
  size_t tokens = 0;
  std::vector<float> scores;  // of the documents; written before the run ends, read after
};

Task<std::vector<decode::Completion>> work(std::shared_ptr<RerankJob> job,
                                           std::shared_ptr<engine::Request> request) {
  if (!job->pairs.empty()) {
    job->scores = co_await decode::pair_scores(*job->engine, request, job->pairs);
    co_return std::vector<decode::Completion>();
  }
  const auto vectors = co_await decode::pooled_states(*job->engine, request, job->texts);
  for (size_t d = 1; d < vectors.size(); ++d) {
    const double cosine =
        std::inner_product(vectors[d].begin(), vectors[d].end(), vectors[0].begin(), 0.0,
                           std::plus<>(), [](double a, double b) { return a * b; });
    job->scores.push_back(float(cosine));
  }
  co_return std::vector<decode::Completion>();
}

// A document is a text, or an object with one.
std::string document_of(const Json& one, size_t index) {
  if (one.is_string()) return one.get<std::string>();
  if (const auto text = one.is_object() ? one.find("text") : one.end();
      one.is_object() && text != one.end() && text->is_string())
    return text->get<std::string>();
  throw invalid("documents[" + std::to_string(index) +
                    "]: must be a string or an object with a string \"text\"",
                "documents");
}

std::vector<std::string> read_documents(Fields& fields, size_t most) {
  const Json* given = fields.find("documents");
  if (!given || !given->is_array() || given->empty())
    throw invalid("documents: must be an array of at least one text", "documents");
  if (given->size() > most) {
    throw invalid("documents: has " + std::to_string(given->size()) + " entries; give at most " +
                      std::to_string(most),
                  "documents");
  }
  std::vector<std::string> documents;
  for (const Json& one : *given) documents.push_back(document_of(one, documents.size()));
  return documents;
}

// The best first; of equal ones the earlier.
std::vector<size_t> order_of(const std::vector<float>& scores) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  return order;
}

HttpResponse response_of(const RerankJob& job, const std::string& model, const std::string& id) {
  std::vector<size_t> order = order_of(job.scores);
  if (job.request.top_n > 0 && size_t(job.request.top_n) < order.size())
    order.resize(size_t(job.request.top_n));
  Json results = Json::array();
  for (const size_t d : order) {
    Json one{{"index", d}, {"relevance_score", job.scores[d]}};
    if (job.request.return_documents) one["document"] = {{"text", job.request.documents[d]}};
    results.push_back(std::move(one));
  }
  HttpResponse response;
  response.body =
      formats::print_json({{"id", "rerank-" + id},
                           {"object", "list"},
                           {"model", model},
                           {"results", std::move(results)},
                           {"usage", {{"prompt_tokens", job.tokens}, {"total_tokens", job.tokens}}},
                           {"tutti", {{"score", job.pairs.empty() ? "cosine" : "classifier"}}}});
  return response;
}

// As Tokenizer::encode_pair has them, but the query is read once: it may be as long as the body.
void read_pairs(RerankJob& job, const text::Tokenizer& t, const models::Config& config,
                const std::stop_token& stop) {
  t.encode_pair("", "");  // throws where it has no marks for pairs
  text::EncodeOptions options;
  options.add_bos = options.add_eos = true;
  const std::vector<int32_t> query = t.encode(job.request.query, options);
  check_fits(config, query.size(), "query");
  options.add_bos = false;
  for (const std::string& document : job.request.documents) {
    if (stop.stop_requested()) return;
    const std::vector<int32_t> rest = t.encode(document, options);
    check_fits(config, query.size() + rest.size(), "documents");
    decode::EncoderInput& pair = job.pairs.emplace_back();
    pair.tokens = query;
    pair.tokens.insert(pair.tokens.end(), rest.begin(), rest.end());
    pair.second = int(query.size());
    job.tokens += pair.tokens.size();
  }
}

void read_texts(RerankJob& job, const text::Tokenizer& t, const models::Config& config,
                const std::stop_token& stop) {
  const auto read = [&](const std::string& text, const char* field) {
    if (stop.stop_requested()) return;
    job.texts.push_back(tokens_to_read(t, config, {text, std::nullopt}, field));
    job.tokens += job.texts.back().size();
  };
  read(job.request.query, "query");
  for (const std::string& document : job.request.documents) read(document, "documents");
}

}  // namespace

RerankRequest read_rerank_request(std::string_view body, const RequestLimits& limits,
                                  FieldLog* log) {
  const Json json = read_body(body, limits.depth);
  Fields fields(json, log);
  RerankRequest request;
  request.model = fields.text("model");
  request.query = fields.text("query");
  if (!fields.find("query")) throw invalid("query: is missing; give a string", "query");
  request.documents = read_documents(fields, size_t(limits.documents));
  request.top_n = int(fields.integer({"top_n"}, 0, 1 << 20).value_or(0));
  request.return_documents = fields.flag("return_documents", true);
  fields.refuse({"rank_fields", "max_chunks_per_doc", "max_tokens_per_doc",
                 "truncate_prompt_tokens", "overlap_tokens"});
  fields.text("user");  // checked, and read by nobody
  if (limits.strict) fields.refuse_unknown();
  return request;
}

void answer_rerank(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                   RerankRequest request, const std::string& request_id) {
  const bool encoder = model.config().is_encoder();
  if (!encoder) models::require_causal(model.config(), "rerank");
  const auto& head = model.worker->engine().model().checkpoint().score_head();
  if (head && head->classifier.weight.rows != 1)
    throw invalid("model " + model.name + ": its head has " +
                      std::to_string(head->classifier.weight.rows) +
                      " labels, and a score is one; use another model",
                  "model");
  const auto job = std::make_shared<RerankJob>();
  job->engine = &model.worker->engine();
  job->request = std::move(request);
  TextsToRead texts;
  texts.bytes = job->request.query.size();
  for (const std::string& document : job->request.documents) texts.bytes += document.size();
  texts.encode = [job, &tokenizer = *model.tokenizer, &config = model.config(),
                  read = head ? read_pairs : read_texts](const std::stop_token& stop) {
    read(*job, tokenizer, config, stop);
  };
  answer_whole(
      std::move(exchange), *model.worker, std::move(texts),
      [job](std::shared_ptr<engine::Request> r, const decode::PieceSink&) { return work(job, r); },
      [job, name = model.name, request_id](const RunResult&) {
        return response_of(*job, name, request_id);
      });
}

}  // namespace tutti::serve
