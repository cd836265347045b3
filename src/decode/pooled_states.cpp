#include "decode/pooled_states.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/error.h"
#include "decode/encoder_states.h"
#include "decode/side_by_side.h"

namespace tutti::decode {
namespace {

constexpr size_t kAtATime = 32;
// Tokens of an input that are put down at a time. Rows and states of a query stay until it is
// answered: some 700 bytes and a state a token, which whole contexts must not be kept in.
constexpr size_t kPiece = 512;

// Adds the normalised state to `sum`.
void add_state(const std::vector<float>& state, const std::vector<float>& weight, float epsilon,
               std::vector<double>& sum) {
  double squares = 0;
  for (const float x : state) squares += double(x) * x;
  const double scale = 1.0 / std::sqrt(squares / double(state.size()) + epsilon);
  for (size_t i = 0; i < state.size(); ++i) sum[i] += double(state[i]) * scale * weight[i];
}

Task<void> pool(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                const std::vector<int32_t>& tokens, const std::vector<float>& norm,
                std::vector<float>& out) {
  const models::Config& config = engine.model().config();
  engine::Context context(engine, request);
  std::vector<double> sum(size_t(config.hidden), 0);
  for (size_t at = 0; at < tokens.size(); at += kPiece) {
    const auto piece = std::span(tokens).subspan(at, std::min(kPiece, tokens.size() - at));
    engine::Rows rows = engine::Rows::append(piece, int(at), std::nullopt);
    for (engine::Row& row : rows.rows) row.want.emplace().hidden = {config.layers};
    const engine::Answer answer = co_await engine.forward(context, std::move(rows));
    for (const engine::RowAnswer& row : answer.rows)
      add_state(row.hidden.front(), norm, config.norm_eps, sum);
  }
  out = unit_vector(sum);
}

}  // namespace

text::EncodeOptions reading_options(const text::Tokenizer& tokenizer,
                                    const models::Config& config) {
  text::EncodeOptions options;
  options.add_bos = tokenizer.add_bos_default();
  options.add_eos = config.is_encoder() && tokenizer.add_eos_default();
  return options;
}

Task<std::vector<std::vector<float>>> pooled_states(engine::Engine& engine,
                                                    std::shared_ptr<engine::Request> request,
                                                    std::vector<std::vector<int32_t>> inputs) {
  const models::Config& config = engine.model().config();
  if (config.is_encoder()) {
    std::vector<EncoderInput> texts;
    for (auto& tokens : inputs) texts.push_back({std::move(tokens), -1});
    co_return co_await encoder_vectors(engine, std::move(request), std::move(texts));
  }
  models::require_causal(config, "embeddings");
  for (const auto& input : inputs) {
    if (input.empty()) throw Error(ErrorKind::kUsage, "input: is empty; give at least one token");
    if (int(input.size()) > config.context_length)
      throw Error(ErrorKind::kLimit, "input: " + std::to_string(input.size()) +
                                         " tokens do not fit the context of " +
                                         std::to_string(config.context_length) + "; shorten it");
  }
  const std::vector<float> norm = engine.model().checkpoint().weights().output_norm.floats();
  std::vector<std::vector<float>> out(inputs.size());
  const std::function<Task<void>(size_t)> one = [&](size_t i) {
    return pool(engine, request, inputs[i], norm, out[i]);
  };
  for (size_t first = 0; first < inputs.size(); first += kAtATime)
    co_await side_by_side(first, std::min(inputs.size(), first + kAtATime), one);
  for (const auto& input : inputs) request->statistics.prompt_tokens += input.size();
  co_return out;
}

}  // namespace tutti::decode
