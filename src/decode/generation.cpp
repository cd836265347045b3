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
    case Finish::kRunning: return "running";
    case Finish::kStop: return "stop";
    case Finish::kLength: return "length";
  }
  return "";
}

namespace {

int context_limit(const engine::Engine& engine, const GenerationOptions& options) {
  const int most = engine.model().config().context_length;
  return options.context_tokens > 0 ? std::min(options.context_tokens, most) : most;
}

// What can be said about the options without the prompt.
void validate(const GenerationOptions& options, const Method& method, const models::Config& config) {
  if (method.reads != Reads::kCausal && (options.passages.parallel() || !options.prompt_cache.empty())) {
    throw Error(ErrorKind::kUsage, "method " + std::string(method.name) +
                                       ": does not go with contexts read side by side or a prompt cache, whose keys and "
                                       "values come from reading left to right; leave them out");
  }
  engine::validate(options.sampling, config.vocab);
  if (options.max_tokens < -1) {
    throw Error(ErrorKind::kUsage, "max_tokens: " + std::to_string(options.max_tokens) +
                                       " is out of range; give a number from 0, or -1 for as many as fit");
  }
  if (options.context_tokens < 0 || options.context_tokens > config.context_length) {
    throw Error(ErrorKind::kUsage, "context_tokens: " + std::to_string(options.context_tokens) +
                                       " is out of range; give 1 to " + std::to_string(config.context_length) +
                                       ", the context of the model, or 0 for all of it");
  }
  if (options.n < 1 || options.n > 1024) {
    throw Error(ErrorKind::kUsage, "samples: " + std::to_string(options.n) + " is not in 1..1024");
  }
  for (const auto& [option, value] : options.method_options) {
    const bool known = std::any_of(method.options.begin(), method.options.end(),
                                   [&](const MethodOption& o) { return o.name == option; });
    if (!known) {
      throw Error(ErrorKind::kUsage,
                  "method " + std::string(method.name) + ": has no option " + option + "; see 'tutti methods'");
    }
  }
}

}  // namespace

Generation::Generation(engine::Engine& engine, const text::Tokenizer& tokenizer,
                       std::shared_ptr<engine::Request> request, std::vector<int32_t> prompt,
                       const GenerationOptions& options, int choice, uint64_t seed, uint32_t request_key,
                       PieceSink sink)
    : engine_(engine),
      tokenizer_(tokenizer),
      request_(std::move(request)),
      prompt_(std::move(prompt)),
      options_(options),
      choice_(choice),
      seed_(seed),
      request_key_(request_key),
      // The first choice draws what a request with n = 1 draws.
      path_(choice == 0 ? 0 : fork_path(0, uint32_t(choice))),
      sink_(std::move(sink)),
      detokenizer_(tokenizer),
      stops_(options.stop) {
  const Passages& passages = options_.passages;
  const int taken = passages.parallel() ? positions_before(passages) - prompt_tokens_held(passages) : 0;
  const int room = context_limit(engine, options) - int(prompt_.size()) - taken;
  max_tokens_ = options.max_tokens < 0 ? room : std::min(options.max_tokens, room);
  if (options.sampling.needs_history()) {
    history_ = std::make_shared<engine::History>(options.sampling.penalty_window);
    history_->append_prompt(prompt_);
  }
  if (max_tokens_ <= 0) completion_.finish = Finish::kLength;
}

DrawKey Generation::draw_key(int position) const {
  DrawKey key;
  key.seed = seed_;
  key.request = request_key_;
  key.path = path_;
  key.position = uint32_t(position);
  return key;
}

engine::Want Generation::want(int position) const {
  engine::Want want;
  want.pick = true;
  want.sampling = options_.sampling;
  want.history = history_;
  want.key = draw_key(position);
  return want;
}

bool Generation::is_end(int32_t token) const { return !options_.ignore_eos && tokenizer_.is_end(token); }

engine::Context Generation::begin() {
  return start_ ? std::move(start_) : engine::Context(engine_, request_, options_.cache_salt);
}

engine::Rows Generation::rest_of_prompt(const engine::Context& begun, engine::Want want_last) const {
  const auto rest = std::span(prompt_).subspan(size_t(started_tokens_));
  return engine::Rows::append(rest, begun.next_position(), std::move(want_last));
}

Task<engine::Context> Generation::prefill() {
  engine::Context context = begin();
  if (this->done()) co_return context;
  const int first = context.next_position() + int(prompt_.size()) - started_tokens_;
  const engine::Answer answer = co_await forward(context, rest_of_prompt(context, want(first)));
  emit(answer.rows.back().picked);
  co_return context;
}

void Generation::send(std::string text, std::vector<int32_t> ids) {
  completion_.text += text;
  if (sink_ && (!text.empty() || !ids.empty())) sink_({choice_, std::move(text), std::move(ids)});
}

void Generation::finish(Finish reason) {
  completion_.finish = reason;
  // What was held back for a stop string or an unfinished character is now final.
  std::string rest = detokenizer_.flush();
  std::string text = stops_.push(rest);
  text += stops_.flush();
  send(std::move(text), std::exchange(unsent_, {}));
}

void Generation::emit(const engine::Picked& picked) {
  if (done()) return;
  if (is_end(picked.token)) return finish(Finish::kStop);
  completion_.ids.push_back(picked.token);
  engine_.count_tokens(*request_, 1);
  if (options_.sampling.logprobs >= 0) completion_.picked.push_back(picked);
  if (history_) history_->append_output(picked.token);
  unsent_.push_back(picked.token);
  std::string text = stops_.push(detokenizer_.push(picked.token));
  if (stops_.stopped()) {
    completion_.finish = Finish::kStop;
    return send(std::move(text), std::exchange(unsent_, {}));
  }
  if (!text.empty()) send(std::move(text), std::exchange(unsent_, {}));
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
  engine::Context context = engine::Context::load(engine, request, options.prompt_cache, options.cache_salt);
  const auto& recipe = context.state().recipe;
  size_t same = 0;
  while (same < std::min(head.size(), recipe.size())) {
    const auto& slot = recipe[same];
    if (slot.special || slot.token != head[same] || slot.position != engine::Position(int32_t(same)) || slot.segment != 0) break;
    ++same;
  }
  context.truncate(int(same));
  request->statistics.loaded_tokens = same;
  return context;
}

}  // namespace

Task<std::vector<Completion>> generate(engine::Engine& engine, const text::Tokenizer& tokenizer,
                                       std::shared_ptr<engine::Request> request, std::vector<int32_t> prompt,
                                       GenerationOptions options, PieceSink sink) {
  const Method& method = method_for(options.method, engine.model().config());
  options.method = method.name;
  validate(options, method, engine.model().config());
  const int limit = context_limit(engine, options);
  if (prompt.empty()) throw Error(ErrorKind::kUsage, "prompt: is empty; give at least one token");
  if (!options.passages.tokens.empty()) {
    validate(options.passages, prompt.size());
    if (!options.prompt_cache.empty()) {
      throw Error(ErrorKind::kUsage, "contexts: do not go with a prompt cache; the context store keeps them");
    }
    if (options.passages.mode == PassageMode::kSequential) {
      prompt = sequential_prompt(prompt, options.passages);
    } else {
      for (const auto& passage : options.passages.tokens) {
        for (const int32_t token : passage) {
          if (token < 0 || token >= engine.model().config().vocab) {
            throw Error(ErrorKind::kUsage, "contexts: token " + std::to_string(token) + " is not in the vocabulary");
          }
        }
      }
      const int behind = int(prompt.size()) - prompt_tokens_held(options.passages);
      if (positions_before(options.passages) + behind >= limit) {
        throw Error(ErrorKind::kLimit, "contexts: the longest of " + std::to_string(options.passages.longest()) +
                                           " tokens does not fit the context of " + std::to_string(limit) +
                                           " together with the prompt's " + std::to_string(prompt.size()) +
                                           "; split it or shorten the prompt");
      }
    }
  }
  if (int(prompt.size()) >= limit) {
    throw Error(ErrorKind::kLimit, "prompt: " + std::to_string(prompt.size()) + " tokens do not fit the context of " +
                                       std::to_string(limit) + "; shorten it");
  }
  const bool parallel = options.passages.parallel();
  request->statistics.prompt_tokens = prompt.size() + (parallel ? options.passages.total() : 0);
  // A given seed reproduces: its draws do not depend on which request this is.
  const uint64_t seed = options.seed ? *options.seed : (uint64_t(std::random_device{}()) << 32) | std::random_device{}();
  const uint32_t key = options.seed ? 0 : uint32_t(request->id);

  std::vector<std::unique_ptr<Generation>> choices;
  for (int i = 0; i < options.n; ++i) {
    choices.push_back(std::make_unique<Generation>(engine, tokenizer, request, prompt, options, i, seed, key, sink));
  }
  const bool done = choices.front()->done();  // nothing was asked for
  const bool causal = method.reads == Reads::kCausal;
  if (!done && causal && (parallel || ((options.n > 1 || !options.prompt_cache.empty()) && prompt.size() > 1))) {
    // All but the last prompt token once; every choice then starts from those pages. One choice alone takes the rest of
    // the prompt itself, the last token in the same forward.
    const std::span<const int32_t> head(prompt.data(), prompt.size() - 1);
    engine::Context shared;
    int known = 0;
    if (parallel) {
      shared = co_await read_passages(engine, request, prompt, options.passages, options.cache_salt);
      known = prompt_tokens_held(options.passages);
    } else {
      shared = load_prompt(engine, request, head, options);
      known = shared.size();
    }
    if (known < int(head.size()) && (options.n > 1 || !parallel)) {
      co_await engine.forward(
          shared, engine::Rows::append(head.subspan(size_t(known)), shared.next_position(), std::nullopt));
      known = int(head.size());
      if (!options.prompt_cache.empty() && !options.prompt_cache_read_only) shared.save(options.prompt_cache);
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
    auto [order, errors] = co_await asio::experimental::make_parallel_group(std::move(running))
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
