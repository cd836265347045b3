#include "decode/ape/passages.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/experimental/parallel_group.hpp>
#include <boost/asio/this_coro.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "decode/ape/context_store.h"

namespace tutti::decode {

std::string_view name(PassageMode mode) {
  switch (mode) {
    case PassageMode::kApe:
      return "ape";
    case PassageMode::kPcw:
      return "pcw";
    case PassageMode::kSequential:
      return "sequential";
  }
  return "";
}

PassageMode parse_passage_mode(std::string_view wanted) {
  for (const PassageMode mode : {PassageMode::kApe, PassageMode::kPcw, PassageMode::kSequential}) {
    if (name(mode) == wanted) return mode;
  }
  throw Error(ErrorKind::kUsage,
              "context mode " + std::string(wanted) + ": unknown; modes are ape, pcw, sequential");
}

size_t Passages::longest() const {
  size_t most = 0;
  for (const auto& passage : tokens) most = std::max(most, passage.size());
  return most;
}

size_t Passages::total() const {
  size_t sum = 0;
  for (const auto& passage : tokens) sum += passage.size();
  return sum;
}

void validate(const Passages& passages, size_t prompt_tokens) {
  if (passages.tokens.empty()) return;
  for (size_t i = 0; i < passages.tokens.size(); ++i) {
    if (passages.tokens[i].empty()) {
      throw Error(ErrorKind::kUsage, "context " + std::to_string(i + 1) +
                                         ": is empty; give it a text or leave it out");
    }
  }
  if (passages.at < 0 || size_t(passages.at) >= prompt_tokens) {
    throw Error(ErrorKind::kUsage,
                "contexts: must stand before a token of the prompt; give a query behind them");
  }
  for (const auto& [what, value] :
       {std::pair("temperature", passages.temperature), {"scale", passages.scale}}) {
    if (!(value > 0 && value <= 10)) {
      throw Error(ErrorKind::kUsage, "context " + std::string(what) + ": " + std::to_string(value) +
                                         " is out of range; give a number above 0, at most 10");
    }
  }
}

std::vector<int32_t> sequential_prompt(std::span<const int32_t> prompt, const Passages& passages) {
  std::vector<int32_t> tokens(prompt.begin(), prompt.begin() + passages.at);
  for (const auto& passage : passages.tokens)
    tokens.insert(tokens.end(), passage.begin(), passage.end());
  tokens.insert(tokens.end(), prompt.begin() + passages.at, prompt.end());
  return tokens;
}

int positions_before(const Passages& passages) {
  return (passages.mode == PassageMode::kPcw ? 1 : passages.at) + int(passages.longest());
}

int prompt_tokens_held(const Passages& passages) {
  return passages.mode == PassageMode::kPcw ? 0 : passages.at;
}

Task<engine::Context> read_passages(engine::Engine& engine,
                                    std::shared_ptr<engine::Request> request,
                                    std::span<const int32_t> prompt, const Passages& passages,
                                    uint64_t salt) {
  const bool pcw = passages.mode == PassageMode::kPcw;
  const std::span<const int32_t> prefix = prompt.first(size_t(pcw ? 0 : passages.at));
  engine::Context combined(engine, request, salt);
  if (!prefix.empty())
    co_await engine.forward(combined, engine::Rows::append(prefix, 0, std::nullopt));

  const size_t count = passages.tokens.size();
  std::vector<std::vector<int32_t>> texts = passages.tokens;
  if (pcw) {
    for (auto& text : texts) text.insert(text.begin(), prompt.front());
  }
  std::vector<engine::Context> read(count);
  std::vector<size_t> missing;
  for (size_t i = 0; i < count; ++i) {
    std::optional<engine::Context> kept;
    if (passages.store) kept = passages.store->find(prefix, texts[i], salt);
    if (kept) {
      read[i] = std::move(*kept);
      request->statistics.loaded_tokens += passages.tokens[i].size();
    } else if (const auto twin =
                   std::find(texts.begin(), texts.begin() + std::ptrdiff_t(i), texts[i]);
               twin == texts.begin() + std::ptrdiff_t(i)) {
      missing.push_back(i);
    }
  }
  if (!missing.empty()) {
    const auto executor = co_await asio::this_coro::executor;
    const auto compute = [&](size_t i) {
      read[i] = combined.fork();
      auto program = [&engine, &context = read[i], &text = texts[i],
                      at = int(prefix.size())]() -> Task<void> {
        co_await engine.forward(context, engine::Rows::append(text, at, std::nullopt));
      };
      return asio::co_spawn(executor, std::move(program), asio::deferred);
    };
    std::vector<decltype(compute(0))> running;
    for (const size_t i : missing) running.push_back(compute(i));
    auto group = asio::experimental::make_parallel_group(std::move(running));
    auto [order, errors] =
        co_await group.async_wait(asio::experimental::wait_for_one_error(), asio::use_awaitable);
    for (const size_t i : order) {
      if (errors[i]) std::rethrow_exception(errors[i]);
    }
    if (passages.store) {
      for (const size_t i : missing) {
        // Pages may have gone to an older request meanwhile; what is stored is whole.
        co_await engine.restore(read[i]);
        passages.store->put(read[i], prefix, texts[i], salt);
      }
    }
  }
  for (size_t i = 0; i < count; ++i) {
    // The same text twice is the same keys and values twice.
    const size_t from = size_t(std::find(texts.begin(), texts.end(), texts[i]) - texts.begin());
    combined.concat(read[read[i] ? i : from], int(prefix.size()));
  }
  if (passages.mode == PassageMode::kApe) {
    combined.weigh(int(prefix.size()),
                   {1.0f / passages.temperature, passages.scale * passages.temperature});
  }
  co_return combined;
}

Task<PassageMass> passage_mass(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                               std::vector<int32_t> prompt, const Passages& passages,
                               std::vector<int32_t> answer) {
  engine::Context context;
  std::vector<engine::Want::SlotRange> ranges;
  const bool pcw = passages.mode == PassageMode::kPcw;
  int at = pcw ? 0 : passages.at;
  ranges.push_back({0, at});
  for (const auto& passage : passages.tokens) {
    // Its copy of the first token counts to a passage that has one.
    const int size = int(passage.size()) + (pcw ? 1 : 0);
    ranges.push_back({at, size});
    at += size;
  }
  std::vector<int32_t> rest;
  if (passages.parallel()) {
    context = co_await read_passages(engine, request, prompt, passages);
    rest.assign(prompt.begin() + prompt_tokens_held(passages), prompt.end());
  } else {
    context = engine::Context(engine, request);
    const std::vector<int32_t> all = sequential_prompt(prompt, passages);
    co_await engine.forward(
        context, engine::Rows::append(std::span(all).first(size_t(at)), 0, std::nullopt));
    rest.assign(all.begin() + at, all.end());
  }
  const size_t asked = rest.size() - 1;  // the row that chose the answer's first token
  if (!answer.empty()) rest.insert(rest.end(), answer.begin(), answer.end() - 1);
  engine::Rows rows = engine::Rows::append(rest, context.next_position(), std::nullopt);
  for (size_t i = asked; i < rows.rows.size(); ++i) {
    rows.rows[i].want.emplace();
    rows.rows[i].want->mass = ranges;
  }
  const engine::Answer answered = co_await engine.forward(context, std::move(rows));
  PassageMass mass;
  const size_t layers = size_t(engine.model().config().layers), count = rest.size() - asked;
  mass.by_layer.assign(layers, std::vector<double>(ranges.size(), 0.0));
  for (size_t i = asked; i < rest.size(); ++i) {
    for (size_t l = 0; l < layers; ++l) {
      for (size_t r = 0; r < ranges.size(); ++r) {
        mass.by_layer[l][r] += double(answered.rows[i].mass[l][r]) / double(count);
      }
    }
  }
  mass.passages.assign(passages.tokens.size(), 0.0);
  for (const auto& layer : mass.by_layer) {
    mass.prefix += layer[0] / double(layers);
    for (size_t p = 0; p < mass.passages.size(); ++p)
      mass.passages[p] += layer[1 + p] / double(layers);
  }
  co_return mass;
}

}  // namespace tutti::decode
