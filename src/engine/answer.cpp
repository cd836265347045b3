// The forward of a tick, and what its rows answer: states, logits and picks.
#include <algorithm>
#include <exception>
#include <span>

#include "engine/engine.h"
#include "models/head_tokens.h"

namespace tutti::engine {

void Engine::answer_rows(const std::vector<QueryPtr>& planned, Plan& plan) {
  models::Batch& batch = plan.batch();
  // Which query row each head row answers.
  struct Target {
    Query* query;
    size_t part;
    int row;
    const Want* want;
    std::vector<float> kept;  // logits held back for guidance
    bool hold = false;
    std::exception_ptr error;  // each target is evaluated by one worker
  };
  std::vector<Target> targets;
  // Of Batch::mass, which has the same rows in the same order.
  struct Mass {
    RowAnswer* answer;
    std::vector<float> values;  // [layers][ranges]
  };
  std::vector<Mass> mass;
  for (size_t u = 0; u < plan.units().size(); ++u) {
    const PlannedRows& unit = plan.units()[u];
    if (!unit.rows) continue;
    Query& query = *planned[u];
    size_t part = 0;
    while (query.parts[part].context.get() != unit.context) ++part;
    for (int i = 0; i < unit.count; ++i) {
      const auto& want = unit.rows->rows[size_t(unit.first + i)].want;
      if (!want) continue;
      RowAnswer& answer = query.answers[part].rows[size_t(unit.first + i)];
      answer.hidden.resize(want->hidden.size());
      for (size_t h = 0; h < want->hidden.size(); ++h) {
        answer.hidden[h].resize(size_t(model_->config().hidden));
        batch.hidden.push_back({unit.batch_first + i, want->hidden[h], answer.hidden[h].data()});
      }
      if (!want->mass.empty()) {
        mass.push_back(
            {&answer, std::vector<float>(size_t(model_->config().layers) * want->mass.size())});
        batch.mass[mass.size() - 1].out = mass.back().values.data();
      }
      if (!want->needs_head()) continue;
      batch.head_rows.push_back(unit.batch_first + i);
      targets.push_back({&query, part, unit.first + i, &*want, {}, false, {}});
    }
  }
  // Rows that take part in guidance are held until all are there.
  std::vector<std::vector<size_t>> terms(targets.size());
  for (size_t t = 0; t < targets.size(); ++t) {
    for (const auto& term : targets[t].want->mix) {
      for (size_t o = 0; o < targets.size(); ++o) {
        if (targets[o].query == targets[t].query && targets[o].part == size_t(term.part) &&
            targets[o].row == term.row) {
          targets[o].hold = true;
          terms[t].push_back(o);
        }
      }
    }
    if (!targets[t].want->mix.empty()) targets[t].hold = true;
  }

  samplers_.resize(size_t(pool_->threads()));
  const auto evaluate = [&](Sampler& sampler, const Target& target, std::span<float> logits,
                            std::span<const int32_t> ids) {
    const tensor::Kernels& k = tensor::kernels();
    const Want& want = *target.want;
    RowAnswer& answer = target.query->answers[target.part].rows[size_t(target.row)];
    const int vocab = int(logits.size());
    if (want.logits) answer.logits.assign(logits.begin(), logits.end());
    for (const int32_t id : want.at) answer.at.push_back(logits[size_t(id)]);
    if (want.stats) answer.stats = k.vocab_stats(logits.data(), vocab, 1.0f);
    if (want.top_k > 0) {
      const int n = std::min(want.top_k, vocab);
      std::vector<int> highest(static_cast<size_t>(n));
      std::vector<float> values(static_cast<size_t>(n));
      const int found = k.top_k(logits.data(), vocab, n, highest.data(), values.data());
      for (int i = 0; i < found; ++i)
        answer.top.emplace_back(highest[size_t(i)], values[size_t(i)]);
    }
    if (want.pick) {
      static const History kEmpty;
      answer.picked =
          sampler.pick(logits, want.sampling, want.history ? *want.history : kEmpty, want.key, ids);
    }
  };
  // `ids`: what the logits are of, when not of all tokens.
  const auto guarded = [&](int worker, Target& target, std::span<float> logits,
                           std::span<const int32_t> ids = {}) {
    try {
      evaluate(samplers_[size_t(worker)], target, logits, ids);
    } catch (...) {
      target.error = std::current_exception();
    }
  };
  const auto take = [&](int worker, Target& target, std::span<float> logits,
                        std::span<const int32_t> ids) {
    if (target.hold) {
      target.kept.assign(logits.begin(), logits.end());
    } else {
      guarded(worker, target, logits, ids);
    }
  };
  // Of a head of some tokens: a pick takes them as they are, all else names tokens by their place.
  const std::span<const int32_t> head_tokens = model_->config().head_tokens;
  const auto wants_all = [](const Target& target) {
    const Want& want = *target.want;
    return target.hold || want.logits || want.stats || want.top_k > 0 || !want.at.empty() ||
           want.sampling.logprobs >= 0;
  };
  model_->forward(*pool_, batch, {pages_.layout(), pages_.pointers()}, workspace_,
                  [&](int worker, int index, std::span<float> logits) {
                    Target& target = targets[size_t(index)];
                    if (!head_tokens.empty() && wants_all(target)) {
                      std::vector<float> all(size_t(model_->config().vocab));
                      models::spread(head_tokens, logits, all);
                      take(worker, target, all, {});
                    } else {
                      take(worker, target, logits, head_tokens);
                    }
                  });
  std::vector<float> mixed;
  for (size_t t = 0; t < targets.size(); ++t) {
    if (!targets[t].hold) continue;
    if (targets[t].want->mix.empty()) {
      mixed = targets[t].kept;
    } else {
      mixed.assign(targets[t].kept.size(), 0.0f);
      for (size_t i = 0; i < terms[t].size(); ++i) {
        tensor::kernels().add_scaled(targets[t].want->mix[i].weight,
                                     targets[terms[t][i]].kept.data(), int(mixed.size()),
                                     mixed.data());
      }
    }
    guarded(0, targets[t], mixed);
  }
  for (const Target& target : targets) {
    if (target.error && !target.query->error) target.query->error = target.error;
  }
  const size_t layers = size_t(model_->config().layers);
  for (const Mass& m : mass) {
    const size_t ranges = m.values.size() / layers;
    for (size_t l = 0; l < layers; ++l) {
      m.answer->mass.emplace_back(m.values.begin() + std::ptrdiff_t(l * ranges),
                                  m.values.begin() + std::ptrdiff_t((l + 1) * ranges));
    }
  }
}

}  // namespace tutti::engine
