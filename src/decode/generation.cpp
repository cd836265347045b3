#include "decode/generation.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/experimental/parallel_group.hpp>
#include <boost/asio/this_coro.hpp>
#include <random>
#include <utility>

#include "base/error.h"
#include "decode/method.h"

namespace tutti::decode {

std::string_view name(Finish finish) {
  switch (finish) {
    case Finish::kRunning:
      return "running";
    case Finish::kStop:
      return "stop";
    case Finish::kLength:
      return "length";
  }
  return "";
}

namespace {

int context_limit(const engine::Engine& engine, const GenerationOptions& options) {
  const int most = engine.model().config().context_length;
  return options.context_tokens > 0 ? std::min(options.context_tokens, most) : most;
}

// What can be said about the options without the prompt.
void validate(const GenerationOptions& options, const Method& method,
              const models::Config& config) {
  if (method.reads != Reads::kCausal &&
      (options.passages.parallel() || !options.prompt_cache.empty())) {
    throw Error(
        ErrorKind::kUsage,
        "method " + std::string(method.name) +
            ": does not go with contexts read side by side or a prompt cache, whose keys and "
            "values come from reading left to right; leave them out");
  }
  if (method.reads != Reads::kCausal && options.constraint) {
    throw Error(ErrorKind::kUsage,
                "method " + std::string(method.name) +
                    ": does not go with a constraint, which follows the text from left to right");
  }
  engine::validate(options.sampling, config.vocab);
  if (options.max_tokens < -1) {
    throw Error(ErrorKind::kUsage,
                "max_tokens: " + std::to_string(options.max_tokens) +
                    " is out of range; give a number from 0, or -1 for as many as fit");
  }
  if (options.context_tokens < 0 || options.context_tokens > config.context_length) {
    throw Error(ErrorKind::kUsage, "context_tokens: " + std::to_string(options.context_tokens) +
                                       " is out of range; give 1 to " +
                                       std::to_string(config.context_length) +
                                       ", the context of the model, or 0 for all of it");
  }
  if (options.n < 1 || options.n > 1024) {
    throw Error(ErrorKind::kUsage, "samples: " + std::to_string(options.n) + " is not in 1..1024");
  }
  for (const auto& [option, value] : options.method_options) {
    const bool known = std::any_of(method.options.begin(), method.options.end(),
                                   [&](const MethodOption& o) { return o.name == option; });
    if (!known) {
      throw Error(ErrorKind::kUsage, "method " + std::string(method.name) + ": has no option " +
                                         option + "; see 'tutti methods'");
    }
  }
}

PickRule pick_rule(std::span<const int32_t> prompt, const GenerationOptions& options, int choice,
                   uint64_t seed, uint32_t request_key) {
  DrawKey key;
  key.seed = seed;
  key.request = request_key;
  // The first choice draws what a request with n = 1 draws.
  key.path = choice == 0 ? 0 : fork_path(0, uint32_t(choice));
  std::shared_ptr<engine::History> history;
  if (options.sampling.needs_history()) {
    history = std::make_shared<engine::History>(options.sampling.penalty_window);
    history->append_prompt(prompt);
  }
  return PickRule(options.sampling, key, std::move(history), options.constraint);
}

}  // namespace

void place_rows(const PromptRows& given, int first, std::span<engine::Row> rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].position = given.positions[size_t(first) + i];
    const std::vector<float>& vector = given.vectors[size_t(first) + i];
    if (vector.empty()) continue;
    rows[i].in.kind = engine::RowInput::kVector;
    rows[i].in.vector = vector;
  }
}

namespace {

// Appends `tokens`, the prompt's from number `first` on; without prompt rows at `position` and on.
engine::Rows append_prompt(const GenerationOptions& options, std::span<const int32_t> tokens,
                           int first, int position, std::optional<engine::Want> want_last) {
  engine::Rows rows = engine::Rows::append(tokens, position, std::move(want_last));
  if (options.prompt_rows) place_rows(*options.prompt_rows, first, rows.rows);
  return rows;
}

void validate(const PromptRows& rows, const GenerationOptions& options, size_t prompt,
              const models::Config& config) {
  if (!options.prompt_cache.empty() || !options.passages.tokens.empty()) {
    throw Error(ErrorKind::kUsage,
                "images: do not go with a prompt cache or contexts, which keep tokens alone");
  }
  if (rows.positions.size() != prompt || rows.vectors.size() != prompt) {
    throw Error(ErrorKind::kUsage,
                "prompt rows: are not those of its " + std::to_string(prompt) + " tokens");
  }
  for (const auto& vector : rows.vectors) {
    if (!vector.empty() && vector.size() != size_t(config.hidden)) {
      throw Error(ErrorKind::kUsage, "prompt rows: a vector has " + std::to_string(vector.size()) +
                                         " numbers, not " + std::to_string(config.hidden));
    }
  }
  for (const engine::Position& p : rows.positions) {
    if (std::min({p.t, p.h, p.w}) < 0 || std::max({p.t, p.h, p.w}) >= rows.next) {
      throw Error(ErrorKind::kUsage, "prompt rows: a position is not below that of the answer");
    }
  }
}

}  // namespace

Generation::Generation(engine::Engine& engine, const text::Tokenizer& tokenizer,
                       std::shared_ptr<engine::Request> request, std::vector<int32_t> prompt,
                       const GenerationOptions& options, int choice, uint64_t seed,
                       uint32_t request_key, PieceSink sink)
    : engine_(engine),
      tokenizer_(tokenizer),
      request_(std::move(request)),
      prompt_(std::move(prompt)),
      options_(options),
      choice_(choice),
      rule_(pick_rule(prompt_, options, choice, seed, request_key)),
      sink_(std::move(sink)),
      detokenizer_(tokenizer),
      stops_(options.stop) {
  const Passages& passages = options_.passages;
  const int taken =
      passages.parallel() ? positions_before(passages) - prompt_tokens_held(passages) : 0;
  const int room = context_limit(engine, options) - int(prompt_.size()) - taken;
  max_tokens_ = options.max_tokens < 0 ? room : std::min(options.max_tokens, room);
  if (max_tokens_ <= 0) completion_.finish = Finish::kLength;
}

bool Generation::is_end(int32_t token) const {
  return !options_.ignore_eos && tokenizer_.is_end(token);
}

engine::Context Generation::begin() {
  return start_ ? std::move(start_) : engine::Context(engine_, request_, options_.cache_salt);
}

engine::Row Generation::row_of(int32_t token, int index) const {
  const PromptRows* given = options_.prompt_rows.get();
  const int prompt = int(prompt_.size());
  if (!given) return engine::Row(token, index);
  if (index >= prompt) return engine::Row(token, given->next + index - prompt);
  engine::Row row(token, index);
  place_rows(*given, index, std::span(&row, 1));
  return row;
}

int Generation::answer_position() const {
  return options_.prompt_rows ? options_.prompt_rows->next : int(prompt_.size());
}

engine::Rows Generation::rest_of_prompt(const engine::Context& begun,
                                        engine::Want want_last) const {
  const auto rest = std::span(prompt_).subspan(size_t(started_tokens_));
  return append_prompt(options_, rest, started_tokens_, begun.next_position(),
                       std::move(want_last));
}

Task<engine::Context> Generation::prefill() {
  engine::Context context = begin();
  if (this->done()) co_return context;
  const int first = options_.prompt_rows
                        ? answer_position()
                        : context.next_position() + int(prompt_.size()) - started_tokens_;
  const engine::Answer answer = co_await forward(context, rest_of_prompt(context, want(first)));
  emit(answer.rows.back().picked);
  co_return context;
}

void Generation::send(std::string text) {
  completion_.text += text;
  Piece piece{choice_, std::move(text), std::exchange(unsent_, {}),
              std::exchange(unsent_picked_, {})};
  if (sink_ && (!piece.text.empty() || !piece.ids.empty())) sink_(piece);
}

void Generation::finish(Finish reason) {
  completion_.finish = reason;
  // What was held back for a stop string or an unfinished character is now final.
  std::string rest = detokenizer_.flush();
  std::string text = stops_.push(rest);
  text += stops_.flush();
  send(std::move(text));
}

void Generation::emit(const engine::Picked& picked) {
  if (done()) return;
  if (is_end(picked.token)) return finish(Finish::kStop);
  completion_.ids.push_back(picked.token);
  engine_.count_tokens(*request_, 1);
  if (options_.sampling.logprobs >= 0) {
    completion_.picked.push_back(picked);
    unsent_picked_.push_back(picked);
  }
  rule_.advance(picked.token);
  unsent_.push_back(picked.token);
  std::string text = stops_.push(detokenizer_.push(picked.token));
  if (stops_.stopped()) {
    completion_.finish = Finish::kStop;
    return send(std::move(text));
  }
  if (!text.empty()) send(std::move(text));
  if (room() <= 0) finish(Finish::kLength);
}

void Generation::emit_all(std::span<const engine::Picked> picked, double score) {
  completion_.score = score;
  for (const engine::Picked& one : picked) emit(one);
  if (!done()) finish(Finish::kStop);
}

Completion Generation::take() { return std::move(completion_); }

namespace {

// A Context with as much of `head` as the prompt-cache file holds; empty when there is no file yet.
engine::Context load_prompt(engine::Engine& engine, const std::shared_ptr<engine::Request>& request,
                            std::span<const int32_t> head, const GenerationOptions& options) {
  if (options.prompt_cache.empty() || !std::filesystem::exists(options.prompt_cache)) {
    return engine::Context(engine, request, options.cache_salt);
  }
  engine::Context context =
      engine::Context::load(engine, request, options.prompt_cache, options.cache_salt);
  const auto& recipe = context.state().recipe;
  size_t same = 0;
  while (same < std::min(head.size(), recipe.size())) {
    const auto& slot = recipe[same];
    if (slot.special || slot.token != head[same] ||
        slot.position != engine::Position(int32_t(same)) || slot.segment != 0)
      break;
    ++same;
  }
  context.truncate(int(same));
  request->statistics.loaded_tokens = same;
  return context;
}

}  // namespace

Task<std::vector<Completion>> generate(engine::Engine& engine, const text::Tokenizer& tokenizer,
                                       std::shared_ptr<engine::Request> request,
                                       std::vector<int32_t> prompt, GenerationOptions options,
                                       PieceSink sink) {
  const Method& method = method_for(options.method, engine.model().config());
  options.method = method.name;
  validate(options, method, engine.model().config());
  const int limit = context_limit(engine, options);
  if (prompt.empty()) throw Error(ErrorKind::kUsage, "prompt: is empty; give at least one token");
  if (options.prompt_rows)
    validate(*options.prompt_rows, options, prompt.size(), engine.model().config());
  if (!options.passages.tokens.empty()) {
    validate(options.passages, prompt.size());
    if (!options.prompt_cache.empty()) {
      throw Error(ErrorKind::kUsage,
                  "contexts: do not go with a prompt cache; the context store keeps them");
    }
    if (options.passages.mode == PassageMode::kSequential) {
      prompt = sequential_prompt(prompt, options.passages);
    } else {
      for (const auto& passage : options.passages.tokens) {
        for (const int32_t token : passage) {
          if (token < 0 || token >= engine.model().config().vocab) {
            throw Error(ErrorKind::kUsage,
                        "contexts: token " + std::to_string(token) + " is not in the vocabulary");
          }
        }
      }
      const int behind = int(prompt.size()) - prompt_tokens_held(options.passages);
      if (positions_before(options.passages) + behind >= limit) {
        throw Error(ErrorKind::kLimit,
                    "contexts: the longest of " + std::to_string(options.passages.longest()) +
                        " tokens does not fit the context of " + std::to_string(limit) +
                        " together with the prompt's " + std::to_string(prompt.size()) +
                        "; split it or shorten the prompt");
      }
    }
  }
  if (int(prompt.size()) >= limit) {
    throw Error(ErrorKind::kLimit, "prompt: " + std::to_string(prompt.size()) +
                                       " tokens do not fit the context of " +
                                       std::to_string(limit) + "; shorten it");
  }
  const bool parallel = options.passages.parallel();
  request->statistics.prompt_tokens = prompt.size() + (parallel ? options.passages.total() : 0);
  // A given seed reproduces: its draws do not depend on which request this is.
  const uint64_t seed = options.seed
                            ? *options.seed
                            : (uint64_t(std::random_device{}()) << 32) | std::random_device{}();
  const uint32_t key = options.seed ? 0 : uint32_t(request->id);

  std::vector<std::unique_ptr<Generation>> choices;
  for (int i = 0; i < options.n; ++i) {
    choices.push_back(std::make_unique<Generation>(engine, tokenizer, request, prompt, options, i,
                                                   seed, key, sink));
  }
  const bool done = choices.front()->done();  // nothing was asked for
  const bool causal = method.reads == Reads::kCausal;
  if (!done && causal &&
      (parallel || ((options.n > 1 || !options.prompt_cache.empty()) && prompt.size() > 1))) {
    // All but the last prompt token once; every choice then starts from those pages. One choice
    // alone takes the rest of the prompt itself, the last token in the same forward.
    const std::span<const int32_t> head(prompt.data(), prompt.size() - 1);
    engine::Context shared;
    int known = 0;
    if (parallel) {
      shared =
          co_await read_passages(engine, request, prompt, options.passages, options.cache_salt);
      known = prompt_tokens_held(options.passages);
    } else {
      shared = load_prompt(engine, request, head, options);
      known = shared.size();
    }
    if (known < int(head.size()) && (options.n > 1 || !parallel)) {
      co_await engine.forward(shared, append_prompt(options, head.subspan(size_t(known)), known,
                                                    shared.next_position(), std::nullopt));
      known = int(head.size());
      if (!options.prompt_cache.empty() && !options.prompt_cache_read_only)
        shared.save(options.prompt_cache);
    }
    for (size_t i = 1; i < choices.size(); ++i) choices[i]->start_from(shared.fork(), known);
    choices.front()->start_from(std::move(shared), known);
  }
  if (done) {
    // Its completions stand.
  } else if (options.n == 1) {
    co_await method.run(*choices.front());
  } else {
    const auto executor = co_await asio::this_coro::executor;
    const auto start = [&](Generation& g) {
      return asio::co_spawn(
          executor, [&method, &g]() -> Task<void> { co_await method.run(g); }, asio::deferred);
    };
    std::vector<decltype(start(*choices.front()))> running;
    for (auto& choice : choices) running.push_back(start(*choice));
    auto [order, errors] =
        co_await asio::experimental::make_parallel_group(std::move(running))
            .async_wait(asio::experimental::wait_for_one_error(), asio::use_awaitable);
    // The first failure in time is the cause; the others were cancelled by it.
    for (const size_t i : order) {
      if (errors[i]) std::rethrow_exception(errors[i]);
    }
  }
  std::vector<Completion> completions;
  for (auto& choice : choices) completions.push_back(choice->take());
  co_return completions;
}

}  // namespace tutti::decode
