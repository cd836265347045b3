#include "serve/text_answer.h"

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "decode/method.h"
#include "formats/json_text.h"
#include "serve/api_error.h"
#include "serve/chat_output.h"
#include "serve/prompt_job.h"
#include "serve/prompt_text.h"
#include "serve/whole_answer.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;
using formats::print_json;

int64_t code_points(std::string_view text) {
  return std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

class TextAnswer : public std::enable_shared_from_this<TextAnswer> {
 public:
  TextAnswer(std::shared_ptr<HttpExchange> exchange, ServedModel& model, TextRequest request,
             const std::string& id)
      : exchange_(std::move(exchange)),
        model_(model),
        request_(std::move(request)),
        created_(int64_t(std::time(nullptr))) {
    id_ = (chat() ? "chatcmpl-" : "cmpl-") + id;
  }

  void begin() {
    read_prompts();
    check_options();
    choices_.resize(jobs_.size() * size_t(request_.options.n));
    results_.resize(jobs_.size());
    const auto self = shared_from_this();
    exchange_->on_gone([self] { self->cancel(); });
    try {
      for (size_t p = 0; p < jobs_.size(); ++p) {
        runs_.push_back(model_.worker->start(
            program(p), [self, p](const decode::Piece& piece) { self->on_piece(p, piece); },
            [self, p](const RunResult& result) { self->on_end(p, result); },
            std::string(method())));
      }
    } catch (...) {
      cancel();
      throw;
    }
  }

 private:
  struct Choice {
    int64_t offset = 0;  // code points so far, for text_offset
    bool begun = false;
  };

  std::string_view method() const {
    return decode::method_for(request_.options.method, model_.config()).name;
  }
  bool chat() const { return request_.kind == TextRequest::Kind::kChat; }
  // Whether the text holds thoughts or calls, which are no content.
  bool reads_output() const {
    return chat() && (chat_.tools != text::ToolFormat::kNone || model_.format.thinks);
  }
  // Once the prompt is there, which may begin a thought.
  void begin_outputs() {
    if (!outputs_.empty() || !reads_output()) return;
    chat_.in_thought = jobs_.front()->in_thought;
    for (size_t i = 0; i < choices_.size(); ++i)
      outputs_.emplace_back(*model_.tokenizer, request_, chat_, model_.format.thinks);
  }
  bool logprobs() const { return request_.options.sampling.logprobs >= 0; }

  // The prompts' texts as jobs; short ones are encoded now, long ones as the runs' own work.
  void read_prompts() {
    std::vector<PromptReader> readers;
    size_t bytes = 0;
    if (chat()) {
      if (!model_.chat)
        throw invalid(
            "model " + model_.name + ": has no chat template (a base model); use /v1/completions",
            "messages");
      if (!request_.images.empty() && !model_.images)
        throw invalid("model " + model_.name + ": reads no images; send text", "messages");
      chat_ = plan_chat(model_.format, request_);
      // Many short messages take as long as a long one.
      bytes = exchange_->request().body.size();
      readers.push_back(chat_reader(model_, request_, chat_));
    } else {
      for (size_t p = 0; p < request_.prompts.size(); ++p) {
        bytes += request_.prompts[p].text.size();
        readers.push_back(completion_reader(model_, request_, p));
      }
    }
    for (PromptReader& reader : readers) {
      jobs_.push_back(std::make_shared<PromptJob>());
      if (bytes > kEncodedAtOnce)
        jobs_.back()->read = std::move(reader);
      else
        jobs_.back()->take(reader());
    }
  }

  // What can be said against the request is said before it waits for its turn.
  void check_options() {
    if (request_.grammar) request_.options.constraint = model_.constraint(*request_.grammar);
    if (chat_.forced)
      request_.options.constraint =
          model_.constraint({text::GrammarSource::kToolCalls, chat_.forced->text(), {}});
    decode::method_for(request_.options.method, model_.config());
    engine::validate(request_.options.sampling, model_.config().vocab);
  }

  Program program(size_t p) {
    const std::shared_ptr<PromptJob>& job = jobs_[p];
    job->engine = &model_.worker->engine();
    job->score = &model_.worker->score();
    job->tokenizer = model_.tokenizer;
    job->images = std::move(request_.images);  // of a chat, which has one prompt
    job->reading = model_.images;
    job->options = request_.options;
    job->scores_prompt = request_.echo && logprobs();
    // The prompts of one body share its seed, but not their draws.
    if (job->options.seed) *job->options.seed += p;
    return [job](std::shared_ptr<engine::Request> request, decode::PieceSink sink) {
      return run_prompt(job, std::move(request), std::move(sink));
    };
  }

  void cancel() {
    for (const auto& run : runs_) model_.worker->cancel(run);
  }

  size_t index_of(size_t prompt, int choice) const {
    return prompt * size_t(request_.options.n) + size_t(choice);
  }

  void on_piece(size_t prompt, const decode::Piece& piece) {
    if (!request_.stream || failed_) return;
    begin_outputs();
    begin_choice(prompt, piece.choice);
    send_piece(prompt, piece.choice, piece.text, piece.ids, piece.picked);
  }

  void begin_stream() {
    if (streaming_) return;
    streaming_ = true;
    exchange_->begin_stream({});
  }

  // The role of a chat's choice, or a completion's echoed prompt.
  void begin_choice(size_t prompt, int choice) {
    Choice& c = choices_[index_of(prompt, choice)];
    if (std::exchange(c.begun, true)) return;
    begin_stream();
    if (chat()) {
      send_chunk(index_of(prompt, choice), {{"role", "assistant"}, {"content", ""}}, "", Json(),
                 Json());
    } else if (request_.echo) {
      send_chunk(index_of(prompt, choice), Json(), prompt_text(prompt), echo_logprobs(prompt, c),
                 Json());
    }
  }

  void send_piece(size_t prompt, int choice, const std::string& text,
                  const std::vector<int32_t>& ids, const std::vector<engine::Picked>& picked) {
    const size_t index = index_of(prompt, choice);
    Choice& c = choices_[index];
    Json probabilities;
    if (logprobs())
      probabilities = chat() ? chat_logprobs(picked) : completion_logprobs(picked, c.offset);
    if (!outputs_.empty()) return send_delta(index, outputs_[index].push(ids), probabilities);
    if (text.empty() && probabilities.is_null() && !ids.empty()) return;  // a part of a character
    send_chunk(index, {{"content", text}}, text, probabilities, Json());
  }

  void send_delta(size_t index, const ChatDelta& part, Json probabilities) {
    if (part.empty() && probabilities.is_null()) return;
    Json delta = Json::object();
    if (!part.reasoning.empty()) delta["reasoning_content"] = part.reasoning;
    if (!part.text.calls.empty()) delta["tool_calls"] = delta_calls(part.text.calls, chat_.tools);
    if (!part.text.content.empty() || delta.empty()) delta["content"] = part.text.content;
    send_chunk(index, std::move(delta), "", std::move(probabilities), Json());
  }

  void send_chunk(size_t index, Json delta, const std::string& text, Json probabilities,
                  Json finish) {
    Json choice{{"index", index}};
    if (chat())
      choice["delta"] = std::move(delta);
    else
      choice["text"] = text;
    choice["logprobs"] = std::move(probabilities);
    choice["finish_reason"] = std::move(finish);
    Json chunk = head();
    chunk["choices"] = Json::array({std::move(choice)});
    if (request_.include_usage) chunk["usage"] = nullptr;
    exchange_->write("data: " + print_json(chunk) + "\n\n");
  }

  Json head() const {
    const char* object = !chat()           ? "text_completion"
                         : request_.stream ? "chat.completion.chunk"
                                           : "chat.completion";
    return {{"id", id_},
            {"object", object},
            {"created", created_},
            {"model", model_.name},
            {"system_fingerprint", "tutti"}};
  }

  void on_end(size_t prompt, const RunResult& result) {
    results_[prompt] = result;
    ++ended_;
    if (result.error && !failed_) {
      failed_ = true;
      const ApiError error = api_error(result.error);
      if (streaming_) {
        // The headers are out: the stream itself says it.
        exchange_->write("data: " + error_body(error) + "\n\n");
        exchange_->end();
      } else {
        exchange_->respond(error_response(error));
      }
      cancel();
    }
    if (!failed_) begin_outputs();
    if (request_.stream && !failed_) {
      for (const decode::Completion& c : result.completions) {
        const int choice = int(&c - result.completions.data());
        const size_t index = index_of(prompt, choice);
        begin_choice(prompt, choice);
        if (!outputs_.empty()) send_delta(index, outputs_[index].finish(), Json());
        send_chunk(index, Json::object(), "", Json(), finish_reason(c, index));
      }
    }
    if (ended_ < results_.size()) return;
    exchange_->on_gone({});
    if (!failed_) request_.stream ? end_stream() : respond();
    runs_.clear();  // they hold programs that hold us
  }

  // OpenAI's: a call that the client named itself ends as "stop".
  std::string finish_reason(const decode::Completion& c, size_t index) const {
    const bool called = !outputs_.empty() && outputs_[index].calls() > 0 &&
                        request_.tools.choice != ToolRequest::Choice::kNamed;
    if (called && c.finish == decode::Finish::kStop) return "tool_calls";
    return std::string(decode::name(c.finish));
  }

  void end_stream() {
    begin_stream();  // nothing was generated
    if (request_.include_usage) {
      Json chunk = head();
      chunk["choices"] = Json::array();
      chunk["usage"] = usage();
      exchange_->write("data: " + print_json(chunk) + "\n\n");
    }
    exchange_->write("data: [DONE]\n\n");
    exchange_->end();
  }

  void respond() {
    Json body = head();
    Json choices = Json::array();
    for (size_t p = 0; p < results_.size(); ++p) {
      for (size_t i = 0; i < results_[p].completions.size(); ++i) {
        const decode::Completion& c = results_[p].completions[i];
        Json choice{{"index", index_of(p, int(i))}};
        Json probabilities;
        if (chat()) {
          choice["message"] = message(c, index_of(p, int(i)));
          if (logprobs()) probabilities = chat_logprobs(c.picked);
        } else {
          choice["text"] = (request_.echo ? prompt_text(p) : "") + c.text;
          if (logprobs()) {
            Choice& state = choices_[index_of(p, int(i))];
            if (request_.echo) probabilities = echo_logprobs(p, state);
            append(probabilities, completion_logprobs(c.picked, state.offset));
          }
        }
        choice["logprobs"] = std::move(probabilities);
        choice["finish_reason"] = finish_reason(c, index_of(p, int(i)));
        choices.push_back(std::move(choice));
      }
    }
    body["choices"] = std::move(choices);
    body["usage"] = usage();
    HttpResponse response;
    response.body = print_json(body);
    add_headers(response.headers);
    exchange_->respond(std::move(response));
  }

  Json message(const decode::Completion& c, size_t index) {
    Json message{{"role", "assistant"}, {"content", c.text}, {"refusal", nullptr}};
    if (outputs_.empty()) return message;
    ChatDelta all = outputs_[index].push(c.ids);
    const ChatDelta end = outputs_[index].finish();
    all.reasoning += end.reasoning;
    all.text.content += end.text.content;
    all.text.calls.insert(all.text.calls.end(), end.text.calls.begin(), end.text.calls.end());
    message["content"] = all.text.content;
    if (!all.text.calls.empty()) {
      if (all.text.content.empty()) message["content"] = nullptr;
      message["tool_calls"] = message_calls(all.text.calls, chat_.tools);
    }
    if (!all.reasoning.empty()) message["reasoning_content"] = all.reasoning;
    return message;
  }

  int reasoning_tokens() const {
    int sum = 0;
    for (const ChatOutput& output : outputs_) sum += output.reasoning_tokens();
    return sum;
  }

  void add_headers(Headers& headers) const {
    const auto number = [](double x) {
      char text[32];
      std::snprintf(text, sizeof text, "%.6f", x);
      return std::string(text);
    };
    double queue = 0, total = 0, run = 0;
    for (const auto& r : runs_) {
      queue = std::max(queue, r->queue_seconds());
      total = std::max(total, r->ended);
      run = std::max(run, r->ended - r->queue_seconds());
    }
    const auto [prompt_tokens, tokens] = token_counts();
    headers.emplace_back("x-queue-time", number(queue));
    headers.emplace_back("x-inference-time", number(run));
    headers.emplace_back("x-total-time", number(total));
    headers.emplace_back("x-time-per-token", number(tokens > 0 ? run / double(tokens) : 0));
    headers.emplace_back("x-prompt-tokens", std::to_string(prompt_tokens));
    headers.emplace_back("x-generated-tokens", std::to_string(tokens));
  }

  std::pair<size_t, size_t> token_counts() const {
    size_t prompt_tokens = 0, tokens = 0;
    for (const auto& job : jobs_) prompt_tokens += job->prompt.size();
    for (const RunResult& r : results_) {
      for (const decode::Completion& c : r.completions) tokens += c.ids.size();
    }
    return {prompt_tokens, tokens};
  }

  Json usage() const {
    const auto [prompt_tokens, tokens] = token_counts();
    uint64_t cached = 0, forwards = 0, rows = 0, proposed = 0, accepted = 0;
    for (const RunResult& r : results_) {
      cached += r.statistics.cached_tokens;
      forwards += r.statistics.forwards;
      rows += r.statistics.rows;
      for (const decode::Completion& c : r.completions) {
        proposed += c.statistics.proposed;
        accepted += c.statistics.accepted;
      }
    }
    return {{"prompt_tokens", prompt_tokens},
            {"completion_tokens", tokens},
            {"total_tokens", prompt_tokens + tokens},
            {"prompt_tokens_details", {{"cached_tokens", cached}}},
            {"completion_tokens_details",
             {{"reasoning_tokens", reasoning_tokens()},
              {"accepted_prediction_tokens", accepted},
              {"rejected_prediction_tokens", proposed - accepted}}},
            {"tutti",
             {{"method", method()},
              {"forwards", forwards},
              {"rows", rows},
              {"tokens_per_forward", forwards > 0 ? double(tokens) / double(forwards) : 0.0}}}};
  }

  // Models have more ids than their tokenizers have tokens; those stand for nothing.
  std::string token_text(int32_t id) const {
    return id < model_.tokenizer->vocab_size() ? std::string(model_.tokenizer->token_bytes(id))
                                               : std::string();
  }

  Json one_logprob(int32_t id, float value) const {
    const std::string bytes = token_text(id);
    Json list = Json::array();
    for (const char c : bytes) list.push_back(int(static_cast<unsigned char>(c)));
    return {{"token", bytes}, {"logprob", value}, {"bytes", std::move(list)}};
  }

  Json chat_logprobs(const std::vector<engine::Picked>& picked) const {
    Json content = Json::array();
    for (const engine::Picked& p : picked) {
      Json one = one_logprob(p.token, p.raw_log_probability);
      one["top_logprobs"] = Json::array();
      for (const auto& t : p.top)
        one["top_logprobs"].push_back(one_logprob(t.token, t.log_probability));
      content.push_back(std::move(one));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }

  // The older format, by columns; `offset` counts the text's code points on.
  Json completion_logprobs(const std::vector<engine::Picked>& picked, int64_t& offset,
                           bool first_unknown = false) const {
    Json tokens = Json::array(), values = Json::array(), tops = Json::array(),
         offsets = Json::array();
    for (const engine::Picked& p : picked) {
      const std::string bytes = token_text(p.token);
      const bool unknown = first_unknown && &p == picked.data();
      tokens.push_back(bytes);
      values.push_back(unknown ? Json() : Json(p.raw_log_probability));
      Json top = Json::object();
      for (const auto& t : p.top) top[token_text(t.token)] = t.log_probability;
      tops.push_back(unknown ? Json() : std::move(top));
      offsets.push_back(offset);
      offset += code_points(bytes);
    }
    return {{"tokens", std::move(tokens)},
            {"token_logprobs", std::move(values)},
            {"top_logprobs", std::move(tops)},
            {"text_offset", std::move(offsets)}};
  }

  Json echo_logprobs(size_t prompt, Choice& c) const {
    if (!logprobs()) return {};
    return completion_logprobs(jobs_[prompt]->scores, c.offset, true);
  }

  static void append(Json& columns, Json more) {
    if (columns.is_null()) {
      columns = std::move(more);
      return;
    }
    for (auto& [name, values] : more.items()) {
      for (Json& value : values) columns[name].push_back(std::move(value));
    }
  }

  std::string prompt_text(size_t p) const {
    const TextRequest::Prompt& prompt = request_.prompts[p];
    return prompt.ids ? model_.tokenizer->decode(*prompt.ids) : prompt.text;
  }

  std::shared_ptr<HttpExchange> exchange_;
  ServedModel& model_;
  TextRequest request_;
  int64_t created_;
  std::string id_;
  std::vector<std::shared_ptr<Run>> runs_;
  std::vector<Choice> choices_;
  ChatPrompt chat_;                  // kChat
  std::vector<ChatOutput> outputs_;  // of the choices; empty: text is all that there is
  std::vector<RunResult> results_;
  std::vector<std::shared_ptr<PromptJob>> jobs_;  // of the prompts, in order
  size_t ended_ = 0;
  bool streaming_ = false, failed_ = false;
};

}  // namespace

void answer_text(std::shared_ptr<HttpExchange> exchange, ServedModel& model, TextRequest request,
                 const std::string& request_id) {
  std::make_shared<TextAnswer>(std::move(exchange), model, std::move(request), request_id)->begin();
}

}  // namespace tutti::serve
