#include "decode/prompt_score.h"

#include "base/error.h"

namespace tutti::decode {

Task<std::vector<engine::Picked>> score_prompt(engine::Engine& engine,
                                               std::shared_ptr<engine::Request> request,
                                               std::vector<int32_t> tokens, int alternatives) {
  const models::Config& config = engine.model().config();
  if (config.attention != models::AttentionKind::kCausal) {
    throw Error(ErrorKind::kUnsupported,
                "log-probabilities of a prompt: this model (" + config.architecture +
                    ") does not read from left to right; use 'tutti eval likelihood'");
  }
  if (int(tokens.size()) > config.context_length) {
    throw Error(ErrorKind::kLimit, "prompt: " + std::to_string(tokens.size()) +
                                       " tokens do not fit the context of " +
                                       std::to_string(config.context_length) + "; shorten it");
  }
  std::vector<engine::Picked> scores(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) scores[i].token = tokens[i];
  if (tokens.size() < 2) co_return scores;
  engine::Context context(engine, request);
  engine::Rows rows =
      engine::Rows::append(std::span(tokens).first(tokens.size() - 1), 0, std::nullopt);
  for (size_t i = 0; i < rows.rows.size(); ++i) {
    engine::Want& want = rows.rows[i].want.emplace();
    want.stats = true;
    want.at = {tokens[i + 1]};
    want.top_k = alternatives;
  }
  const engine::Answer answer = co_await engine.forward(context, std::move(rows));
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    const engine::RowAnswer& row = answer.rows[i];
    engine::Picked& score = scores[i + 1];
    score.log_probability = score.raw_log_probability = row.at[0] - row.stats.lse;
    for (const auto& [id, logit] : row.top) score.top.push_back({id, logit - row.stats.lse});
  }
  co_return scores;
}

}  // namespace tutti::decode
