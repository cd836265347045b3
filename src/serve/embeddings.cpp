#include "serve/embeddings.h"

#include <charconv>
#include <cmath>
#include <stop_token>

#include "base/base64.h"
#include "decode/pooled_states.h"
#include "engine/crossing.h"
#include "formats/json_text.h"
#include "serve/api_error.h"
#include "serve/whole_answer.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

// What an engine's thread works on.
struct EmbeddingJob {
  engine::Engine* engine;
  EmbeddingRequest request;
  std::vector<std::vector<int32_t>> inputs;
  std::string data;  // the answer's array; written before the run ends, read after
};

// The shortest decimal that is this float again.
void write_number(float x, std::string& out) {
  if (!std::isfinite(x)) {
    out += "null";
    return;
  }
  char text[32];
  out.append(text, std::to_chars(text, text + sizeof text, x).ptr);
}

void write_vector(const std::vector<float>& vector, bool as_base64, std::string& out) {
  if (as_base64) {
    out += '"' + base64(std::as_bytes(std::span(vector))) + '"';
    return;
  }
  out += '[';
  for (size_t i = 0; i < vector.size(); ++i) {
    if (i > 0) out += ',';
    write_number(vector[i], out);
  }
  out += ']';
}

std::string data_of(const std::vector<std::vector<float>>& vectors, bool as_base64,
                    const std::stop_token& stop) {
  std::string out = "[";
  for (size_t i = 0; i < vectors.size() && !stop.stop_requested(); ++i) {
    if (i > 0) out += ',';
    out += R"({"object":"embedding","index":)" + std::to_string(i) + R"(,"embedding":)";
    write_vector(vectors[i], as_base64, out);
    out += '}';
  }
  return out + ']';
}

Task<std::vector<decode::Completion>> work(std::shared_ptr<EmbeddingJob> job,
                                           std::shared_ptr<engine::Request> request) {
  auto vectors = co_await decode::pooled_states(*job->engine, request, job->inputs);
  // Millions of numbers take longer than a tick, or than streams of others may wait.
  auto print = [vectors = std::move(vectors), as_base64 = job->request.base64](
                   const std::stop_token& stop) { return data_of(vectors, as_base64, stop); };
  job->data = co_await engine::offload(*job->engine, std::move(print));
  co_return std::vector<decode::Completion>();
}

}  // namespace

EmbeddingRequest read_embedding_request(std::string_view body, const RequestLimits& limits,
                                        FieldLog* log) {
  const Json json = read_body(body, limits.depth);
  Fields fields(json, log);
  EmbeddingRequest request;
  request.model = fields.text("model");
  request.inputs = read_prompts(fields, "input", size_t(limits.inputs));
  const std::string format = fields.text("encoding_format", "float");
  if (format != "float" && format != "base64")
    throw invalid("encoding_format: must be float or base64", "encoding_format");
  request.base64 = format == "base64";
  request.dimensions = int(fields.integer({"dimensions"}, 1, 1 << 20).value_or(0));
  fields.text("user");  // checked, and read by nobody
  if (limits.strict) fields.refuse_unknown();
  return request;
}

void answer_embeddings(std::shared_ptr<HttpExchange> exchange, ServedModel& model,
                       EmbeddingRequest request) {
  const int hidden = model.config().hidden;
  if (request.dimensions != 0 && request.dimensions != hidden)
    throw invalid("dimensions: this model's vectors have " + std::to_string(hidden) +
                      " numbers, and were not trained to be cut; leave it out",
                  "dimensions");
  if (!model.config().is_encoder()) models::require_causal(model.config(), "embeddings");
  const auto job = std::make_shared<EmbeddingJob>();
  job->engine = &model.worker->engine();
  job->request = std::move(request);
  TextsToRead texts;
  for (const TextRequest::Prompt& p : job->request.inputs) texts.bytes += p.text.size();
  texts.encode = [job, &tokenizer = *model.tokenizer,
                  &config = model.config()](const std::stop_token& stop) {
    for (const TextRequest::Prompt& p : job->request.inputs) {
      if (stop.stop_requested()) return;
      job->inputs.push_back(tokens_to_read(tokenizer, config, p, "input"));
    }
  };
  answer_whole(
      std::move(exchange), *model.worker, std::move(texts),
      [job](std::shared_ptr<engine::Request> r, const decode::PieceSink&) { return work(job, r); },
      [job, name = model.name](const RunResult&) {
        size_t tokens = 0;
        for (const auto& input : job->inputs) tokens += input.size();
        HttpResponse response;
        response.body = R"({"object":"list","data":)" + std::move(job->data) + R"(,"model":)" +
                        formats::print_json(name) + R"(,"usage":)" +
                        formats::print_json({{"prompt_tokens", tokens}, {"total_tokens", tokens}}) +
                        "}";
        return response;
      });
}

}  // namespace tutti::serve
