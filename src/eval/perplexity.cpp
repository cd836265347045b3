#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "eval/run_program.h"

namespace tutti::eval {

double Perplexity::ppl() const { return std::exp(nll / double(tokens)); }

Perplexity perplexity(engine::Engine& engine, std::span<const int32_t> tokens,
                      const PerplexityOptions& options,
                      const std::function<void(int, int)>& progress) {
  models::require_causal(engine.model().config(), "perplexity");
  if (options.window < 2) {
    throw Error(ErrorKind::kUsage, "perplexity: a window of " + std::to_string(options.window) +
                                       " tokens; at least 2");
  }
  if (tokens.size() < 2)
    throw Error(ErrorKind::kUsage, "perplexity: the text has fewer than 2 tokens");
  const int total = int((tokens.size() + size_t(options.window) - 1) / size_t(options.window));
  double sum = 0;
  int64_t scored = 0;
  for (int w = 0; w < total; ++w) {
    const auto window = tokens.subspan(
        size_t(w) * size_t(options.window),
        std::min(size_t(options.window), tokens.size() - size_t(w) * size_t(options.window)));
    // Row i sees everything up to its token and scores the next one; the last token is only scored.
    std::vector<int32_t> rows;
    if (options.bos >= 0) rows.push_back(options.bos);
    rows.insert(rows.end(), window.begin(), window.end() - 1);
    const auto targets = window.last(rows.size());
    if (rows.empty()) continue;
    const auto request = engine.new_request();
    run_to_end(engine, request, [&]() -> Task<void> {
      engine::Context context(engine, request);
      engine::Rows query = engine::Rows::append(rows, 0, std::nullopt);
      for (size_t i = 0; i < rows.size(); ++i) {
        engine::Want want;
        want.stats = true;
        want.at = {targets[i]};
        query.rows[i].want = std::move(want);
      }
      const engine::Answer answer = co_await engine.forward(context, std::move(query));
      for (const auto& row : answer.rows) sum += double(row.stats.lse) - double(row.at.front());
      scored += int64_t(answer.rows.size());
    });
    if (progress) progress(w + 1, total);
  }
  return {sum, scored};
}

namespace {

// What a model that fills in masks sees: the whole window, or the blocks up to a row's own, counted
// from the window's first token. One forward for all rows, as each may see any other.
engine::Rows masked_window(const models::Config& config, std::span<const int32_t> tokens) {
  const bool blocks = config.attention == models::AttentionKind::kBlockCausal;
  const int size = int(tokens.size()), block = blocks ? config.attention_block : size;
  engine::Rows query;
  for (int p = 0; p < size; ++p) {
    if (p % block == 0) query.add_view({engine::Segment::fresh(0, std::min(p + block, size))});
    engine::Row row(tokens[size_t(p)], p);
    row.view = p / block;
    row.write = engine::Write::none();
    row.want.emplace();
    row.want->logits = true;
    query.rows.push_back(std::move(row));
  }
  return query;
}

}  // namespace

void window_logits(engine::Engine& engine, std::span<const int32_t> rows,
                   const std::function<void(int, std::span<const float>)>& sink,
                   const decode::PromptRows* given) {
  const models::Config& config = engine.model().config();
  if (config.attention == models::AttentionKind::kPermutation) {
    throw Error(ErrorKind::kUnsupported,
                "logits: this model (" + config.architecture +
                    ") predicts in an order; use 'tutti score --json --logits'");
  }
  const auto place = [&](size_t first, engine::Rows& query) {
    if (given) decode::place_rows(*given, int(first), query.rows);
  };
  if (config.attention != models::AttentionKind::kCausal) {
    const auto request = engine.new_request();
    run_to_end(engine, request, [&]() -> Task<void> {
      engine::Context context(engine, request);
      engine::Rows query = masked_window(config, rows);
      place(0, query);
      const engine::Answer answer = co_await engine.forward(context, std::move(query));
      for (size_t i = 0; i < answer.rows.size(); ++i) sink(int(i), answer.rows[i].logits);
    });
    return;
  }
  // In pieces, so that a large vocabulary does not need the whole window's logits at once.
  constexpr size_t kPiece = 64;
  const auto request = engine.new_request();
  run_to_end(engine, request, [&]() -> Task<void> {
    engine::Context context(engine, request);
    for (size_t first = 0; first < rows.size(); first += kPiece) {
      const auto piece = rows.subspan(first, std::min(kPiece, rows.size() - first));
      engine::Rows query = engine::Rows::append(piece, int(first), std::nullopt);
      place(first, query);
      for (auto& row : query.rows) {
        row.want.emplace();
        row.want->logits = true;
      }
      const engine::Answer answer = co_await engine.forward(context, std::move(query));
      for (size_t i = 0; i < answer.rows.size(); ++i) sink(int(first + i), answer.rows[i].logits);
    }
  });
}

}  // namespace tutti::eval
