// For tests: small programs over an engine, and the prompts they use.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "engine/engine.h"

namespace tutti::engine {

using TestProgram = std::function<Task<void>(std::shared_ptr<Request>)>;

// `n` tokens of a vocabulary of `vocab`, the same for the same stream.
inline std::vector<int32_t> random_tokens(uint32_t stream, int n, uint32_t vocab = 96) {
  DrawKey key;
  key.purpose = Purpose::kTest;
  key.path = stream;
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i) {
    tokens.push_back(int32_t(draw_word(key, uint32_t(i)) % vocab));
  }
  return tokens;
}

inline Want want_logits() {
  Want want;
  want.logits = true;
  return want;
}

inline Want want_greedy() {
  Want want;
  want.pick = true;
  want.sampling.temperature = 0;
  return want;
}

inline EngineOptions small_engine(int pages = 512, bool cache = false) {
  EngineOptions options;
  options.pages = pages;
  options.prefix_cache = cache;
  return options;
}

// Starts programs, one request each, and runs until all have ended; passes the first exception on.
inline std::vector<std::shared_ptr<Request>> run_programs(
    Engine& engine, const std::vector<TestProgram>& programs) {
  std::exception_ptr first;
  std::vector<std::shared_ptr<Request>> requests;
  for (const auto& program : programs) {
    const auto request = engine.new_request();
    requests.push_back(request);
    engine.spawn(
        request, [&program, request]() -> Task<void> { co_await program(request); },
        [&first](std::exception_ptr e) {
          if (e && !first) first = e;
        });
  }
  engine.run();
  if (first) std::rethrow_exception(first);
  return requests;
}

// Greedy decoding, a row a time; `context` keeps what it computed.
inline Task<void> decode_greedily(Engine& engine, Context& context,
                                  const std::vector<int32_t>& prompt, size_t n,
                                  std::vector<int32_t>& out) {
  Answer answer = co_await engine.forward(
      context, Rows::append(prompt, context.next_position(), want_greedy()));
  out.push_back(answer.rows.back().picked.token);
  while (out.size() < n) {
    const int32_t last = out.back();
    answer = co_await engine.forward(
        context, Rows::append({&last, 1}, context.next_position(), want_greedy()));
    out.push_back(answer.rows.back().picked.token);
  }
}

// What decode_greedily gives on an engine that does nothing else.
inline std::vector<int32_t> decode_alone(Engine& engine, const std::vector<int32_t>& prompt,
                                         size_t n) {
  std::vector<int32_t> out;
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine, request);
                 co_await decode_greedily(engine, context, prompt, n, out);
               }});
  return out;
}

}  // namespace tutti::engine
