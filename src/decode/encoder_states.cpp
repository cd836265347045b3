#include "decode/encoder_states.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <stop_token>
#include <string>

#include "base/error.h"
#include "decode/side_by_side.h"
#include "engine/crossing.h"

namespace tutti::decode {
namespace {

// Rows of one request in a tick; a text is never cut.
constexpr size_t kTokensAtATime = 512;

void check(const models::Config& config, const EncoderInput& input) {
  if (!config.is_encoder()) {
    throw Error(ErrorKind::kUnsupported,
                "model (" + config.architecture + "): is no encoder; use one, as BERT");
  }
  if (input.tokens.empty())
    throw Error(ErrorKind::kUsage, "input: is empty; give at least one token");
  if (input.tokens.size() > size_t(config.context_length)) {
    throw Error(ErrorKind::kLimit, "input: " + std::to_string(input.tokens.size()) +
                                       " tokens do not fit the context of " +
                                       std::to_string(config.context_length) + "; shorten it");
  }
}

// Every row sees all; nothing is kept.
engine::Rows rows_of(const EncoderInput& input, int layers, bool first_only) {
  engine::Rows rows;
  const engine::ViewId whole = rows.add_view({engine::Segment::fresh()});
  for (int i = 0; i < int(input.tokens.size()); ++i) {
    engine::Row row(input.tokens[size_t(i)], i);
    row.segment_id = input.second >= 0 && i >= input.second ? 1 : 0;
    row.view = whole;
    row.write = engine::Write::none();
    if (i == 0 || !first_only) row.want.emplace().hidden = {layers};
    rows.rows.push_back(std::move(row));
  }
  return rows;
}

Task<std::vector<std::vector<float>>> states(engine::Engine& engine,
                                             std::shared_ptr<engine::Request> request,
                                             const EncoderInput& input, bool first_only) {
  const models::Config& config = engine.model().config();
  check(config, input);
  engine::Context context(engine, request);
  engine::Rows rows = rows_of(input, config.layers, first_only);
  engine::Answer answer = co_await engine.forward(context, std::move(rows));
  std::vector<std::vector<float>> out;
  for (engine::RowAnswer& row : answer.rows) {
    if (!row.hidden.empty()) out.push_back(std::move(row.hidden.front()));
  }
  request->statistics.prompt_tokens += input.tokens.size();
  co_return out;
}

// Runs `one` for every input, side by side as far as they fit.
Task<void> for_inputs(const std::vector<EncoderInput>& inputs,
                      std::function<Task<void>(size_t)> one) {
  for (size_t first = 0; first < inputs.size();) {
    size_t last = first, tokens = 0;
    do tokens += inputs[last++].tokens.size();
    while (last < inputs.size() && tokens + inputs[last].tokens.size() <= kTokensAtATime);
    co_await side_by_side(first, last, one);
    first = last;
  }
}

// The score head as numbers.
struct HeadNumbers {
  std::vector<float> pooler, pooler_bias, classifier;
  float bias = 0;

  // logit = classifier . tanh(pooler h + pooler_bias) + bias
  float score(const std::vector<float>& h) const {
    double logit = bias;
    for (size_t i = 0; i < h.size(); ++i) {
      double sum = pooler_bias[i];
      for (size_t k = 0; k < h.size(); ++k) sum += double(pooler[i * h.size() + k]) * h[k];
      logit += std::tanh(sum) * classifier[i];
    }
    return float(1.0 / (1.0 + std::exp(-logit)));
  }
};

HeadNumbers head_of(const models::Checkpoint& checkpoint) {
  const auto& head = checkpoint.score_head();
  if (!head) {
    throw Error(ErrorKind::kUnsupported,
                "model: has no head that scores pairs; use BertForSequenceClassification");
  }
  if (head->classifier.weight.rows != 1) {
    throw Error(ErrorKind::kUnsupported, "model: its head has " +
                                             std::to_string(head->classifier.weight.rows) +
                                             " labels; use one of a single label");
  }
  return {head->pooler.weight.floats(), head->pooler.bias.floats(),
          head->classifier.weight.floats(), head->classifier.bias.floats().front()};
}

}  // namespace

std::vector<float> unit_vector(const std::vector<double>& sum) {
  double squares = 0;
  for (const double x : sum) squares += x * x;
  const double scale = squares > 0 ? 1.0 / std::sqrt(squares) : 0;
  std::vector<float> out;
  for (const double x : sum) out.push_back(float(x * scale));
  return out;
}

Task<std::vector<std::vector<float>>> encoder_states(engine::Engine& engine,
                                                     std::shared_ptr<engine::Request> request,
                                                     const EncoderInput& input) {
  return states(engine, std::move(request), input, false);
}

Task<std::vector<std::vector<float>>> encoder_vectors(engine::Engine& engine,
                                                      std::shared_ptr<engine::Request> request,
                                                      std::vector<EncoderInput> inputs) {
  const models::Config& config = engine.model().config();
  for (const EncoderInput& input : inputs) check(config, input);
  std::vector<std::vector<float>> out(inputs.size());
  const bool first_only = config.pooling == models::Pooling::kFirst;
  const std::function<Task<void>(size_t)> one = [&](size_t i) -> Task<void> {
    const auto all = co_await states(engine, request, inputs[i], first_only);
    std::vector<double> sum(size_t(config.hidden), 0);  // its length goes, so no division by tokens
    for (const auto& state : all) {
      for (size_t k = 0; k < sum.size(); ++k) sum[k] += state[k];
    }
    out[i] = unit_vector(sum);
  };
  co_await for_inputs(inputs, one);
  co_return out;
}

Task<std::vector<float>> pair_scores(engine::Engine& engine,
                                     std::shared_ptr<engine::Request> request,
                                     std::vector<EncoderInput> pairs) {
  const models::Config& config = engine.model().config();
  for (const EncoderInput& pair : pairs) check(config, pair);
  auto head = std::make_shared<const HeadNumbers>(head_of(engine.model().checkpoint()));
  auto first = std::make_shared<std::vector<std::vector<float>>>(pairs.size());
  const std::function<Task<void>(size_t)> one = [&](size_t i) -> Task<void> {
    auto all = co_await states(engine, request, pairs[i], true);
    (*first)[i] = std::move(all.front());
  };
  co_await for_inputs(pairs, one);
  // hidden^2 products a pair take longer than a tick.
  auto work = [head, first](const std::stop_token& stop) {
    std::vector<float> scores;
    for (const auto& state : *first) {
      if (stop.stop_requested()) break;
      scores.push_back(head->score(state));
    }
    return scores;
  };
  co_return co_await engine::offload(engine, std::move(work));
}

}  // namespace tutti::decode
