// What a method works with: the prompt, the rules of sampling and stopping, and the way out for
// tokens. A method is a coroutine over a Generation; batching, memory and other requests are the
// engine's business.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "decode/ape/passages.h"
#include "decode/pick_rule.h"
#include "engine/engine.h"
#include "text/detokenizer.h"
#include "text/stop_strings.h"
#include "text/tokenizer.h"

namespace tutti::decode {

namespace speculative {
class DraftModel;
}

struct MethodFiles;

enum class Finish : uint8_t { kRunning, kStop, kLength };
std::string_view name(Finish finish);  // "running", "stop", "length"

// A forward of a method that fills in a sequence out of order, and what it wrote.
struct CanvasStep {
  CanvasStep() = default;
  struct Written {
    int position;
    int32_t token;
    float log_probability;  // when it was written, in nats
  };
  int choice = 0;
  uint64_t forward = 0;  // of this choice, from 1
  // "denoise"; "refresh": over the whole sequence for the cache; "store": for the cache alone;
  // without a forward: "commit", "pin"
  std::string_view kind;
  int rows = 0;
  int prompt = 0;  // positions before the answer
  int32_t mask = -1;
  std::span<const int32_t> tokens;  // the sequence now
  std::vector<Written> written;
};

// A prompt that is more than tokens at 0, 1, …: vectors (of images) in place of some tokens, and
// where each row stands.
struct PromptRows {
  std::vector<engine::Position> positions;  // one per token of the prompt
  std::vector<std::vector<float>>
      vectors;   // likewise: [hidden] in place of the token's embedding, or empty
  int next = 0;  // position of what follows the prompt, above all of the prompt's
};
// Gives rows that are the prompt's tokens number `first` and on their vectors and positions.
void place_rows(const PromptRows& given, int first, std::span<engine::Row> rows);

// What the caller wants of one request. The defaults sample from the model's own distribution.
struct GenerationOptions {
  engine::Sampling sampling;
  std::optional<uint64_t>
      seed;                // given: the same text again, whatever else runs; else drawn per request
  int max_tokens = 256;    // -1: until the context is full
  int context_tokens = 0;  // prompt and output together at most; 0: what the model was made for
  int n = 1;               // samples of the same prompt, sharing its pages
  std::vector<std::string> stop;  // the text ends before the first of these; `ids` keep its tokens
  bool ignore_eos = false;
  std::string method = "auto";  // see method_for
  std::map<std::string, std::string> method_options;
  uint64_t cache_salt = 0;  // requests with different salt never share cached pages
  // A file with the keys and values of a prompt (engine::Context::save), or empty. What it shares
  // with this prompt is not computed again; afterwards it holds this prompt, unless
  // `prompt_cache_read_only` or it held it all already.
  std::filesystem::path prompt_cache;
  bool prompt_cache_read_only = false;
  Passages passages;                                 // inside the prompt, read side by side
  std::shared_ptr<const PromptRows> prompt_rows;     // null: the prompt's tokens at 0, 1, …
  std::function<void(const CanvasStep&)> on_canvas;  // on the engine's thread
  std::shared_ptr<const Constraint> constraint;      // null: any token may come next
  std::shared_ptr<const speculative::DraftModel> draft_model;  // of method draft
  // What files of `method_options` hold; methods read those that are not in it. Null: none are.
  std::shared_ptr<const MethodFiles> files;

  GenerationOptions() { sampling.temperature = 0.0f; }
};

// A piece of one choice, as it becomes final. `text` is complete UTF-8.
struct Piece {
  int choice = 0;
  std::string text;
  std::vector<int32_t> ids;
  std::vector<engine::Picked>
      picked;  // one per id when log-probabilities were asked for, else empty
};
using PieceSink = std::function<void(const Piece&)>;

// What a method that writes several tokens a forward counts for itself.
struct MethodStatistics {
  uint64_t forwards = 0;   // of this choice
  uint64_t rows = 0;       // put down in those that verify drafts, all that they carry included
  uint64_t refreshes = 0;  // of those, over the whole sequence for the cache
  uint64_t stores = 0;     // of those, for the cache alone
  uint64_t proposed = 0;   // steps ahead that were tried
  uint64_t accepted = 0;   // of those, that stood
  // Methods that write when they are sure: [k]: tokens that had been the likeliest at their
  // position for k commits when they were written.
  std::vector<uint64_t> waits;
  // Of methods that draft tokens, by how far ahead they are (0: the next): forwards with a draft
  // that far, and those in which it stood.
  std::vector<uint64_t> drafted_at, accepted_at;
  uint64_t draft_forwards = 0;  // of the draft model, or of the first layers
  double draft_seconds = 0;     // from asking for a draft until it was there
  // Of methods that draft while they verify: of draft_seconds those inside a forward that verifies;
  // and [k]: runs of drafts that stood, from one that did not to the next, k long.
  double overlap_seconds = 0;
  std::vector<uint64_t> runs;
};

struct Completion {
  std::string text;
  std::vector<int32_t> ids;  // generated, without the end token
  Finish finish = Finish::kRunning;
  std::vector<engine::Picked>
      picked;                   // one per id when log-probabilities were asked for, else empty
  double score = 0;             // of methods that rank (beam search): normalised log-probability
  MethodStatistics statistics;  // zeros: the method keeps none
};

// One choice being generated.
class Generation {
 public:
  Generation(engine::Engine& engine, const text::Tokenizer& tokenizer,
             std::shared_ptr<engine::Request> request, std::vector<int32_t> prompt,
             const GenerationOptions& options, int choice, uint64_t seed, uint32_t request_key,
             PieceSink sink);

  // Starts from a Context that already holds the first `tokens` tokens of the prompt (and perhaps
  // passages).
  void start_from(engine::Context start, int tokens) {
    start_ = std::move(start);
    started_tokens_ = tokens;
  }

  engine::Engine& engine() const { return engine_; }
  const text::Tokenizer& tokenizer() const { return tokenizer_; }
  int choice() const { return choice_; }
  MethodStatistics& statistics() { return completion_.statistics; }
  const GenerationOptions& options() const { return options_; }
  const std::vector<int32_t>& prompt() const { return prompt_; }
  const std::vector<int32_t>& output() const { return completion_.ids; }
  int32_t last_token() const {
    return completion_.ids.empty() ? prompt_.back() : completion_.ids.back();
  }
  bool done() const { return completion_.finish != Finish::kRunning; }
  // Whether `token` ends the text, and how many tokens do (none with ignore_eos).
  bool is_end(int32_t token) const;
  int end_count() const { return options_.ignore_eos ? 0 : int(tokenizer_.end_ids().size()); }
  const std::shared_ptr<engine::Request>& request() const { return request_; }
  // Tokens that may still be emitted.
  int room() const { return max_tokens_ - int(completion_.ids.size()); }

  // The Context to begin with: empty, or holding the first tokens of the prompt. Called once.
  engine::Context begin();
  // The row, not yet written nor wanted, of token number `index` of prompt and answer.
  engine::Row row_of(int32_t token, int index) const;
  // The position of the first token behind the prompt.
  int answer_position() const;
  // Rows for the tokens of the prompt that begin()'s Context does not hold.
  engine::Rows rest_of_prompt(const engine::Context& begun, engine::Want want_last) const;
  // Computes the prompt and emits the first token.
  Task<engine::Context> prefill();
  Task<engine::Answer> forward(engine::Context& context, engine::Rows rows) {
    return engine_.forward(context, std::move(rows));
  }
  Task<std::vector<engine::Answer>> forward(std::vector<engine::Part> parts) {
    return engine_.forward(std::move(parts));
  }
  // A pick by this request's rules of the token that will stand at `position`. Its noise belongs to
  // the position, so whoever picks there, plain decoding or a verifier, picks the same token.
  engine::Want want(int position) const { return rule_.want(position); }
  DrawKey draw_key(int position) const { return rule_.key(position); }
  // The rule of those picks, to go on with after tokens that do not stand yet (PickRule::after).
  const PickRule& rule() const { return rule_; }

  // Appends a token: streams its text, applies end tokens, stop strings and limits. Ignored once
  // done.
  void emit(const engine::Picked& picked);
  // For methods that emit whole texts at the end (beam search).
  void emit_all(std::span<const engine::Picked> picked, double score);

  const Completion& completion() const { return completion_; }
  Completion take();

 private:
  void finish(Finish reason);
  // What is unsent, with the text that became final.
  void send(std::string text);

  engine::Engine& engine_;
  const text::Tokenizer& tokenizer_;
  std::shared_ptr<engine::Request> request_;
  std::vector<int32_t> prompt_;
  GenerationOptions options_;
  int choice_;
  PickRule rule_;
  PieceSink sink_;
  int max_tokens_;
  engine::Context start_;
  int started_tokens_ = 0;
  text::StreamingDetokenizer detokenizer_;
  text::StopMatcher stops_;
  std::vector<int32_t> unsent_;  // ids whose text is held back
  std::vector<engine::Picked> unsent_picked_;
  Completion completion_;
};

// Runs one request: computes the shared prompt once, then all choices side by side by the method
// that the options name. `sink` may be empty. Throws Error(kUsage | kLimit), and
// boost::system::system_error(operation_aborted) when the request is cancelled.
Task<std::vector<Completion>> generate(engine::Engine& engine, const text::Tokenizer& tokenizer,
                                       std::shared_ptr<engine::Request> request,
                                       std::vector<int32_t> prompt, GenerationOptions options,
                                       PieceSink sink);

}  // namespace tutti::decode
