#include "eval/likelihood.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/draws.h"
#include "base/error.h"
#include "eval/run_program.h"

namespace tutti::eval {
namespace {

using Mask = std::vector<int>;  // masked positions of a text

// What masks lie in: the whole text, or one block of attention.
struct Piece {
  int begin = 0, end = 0;  // rows that see one another; what stands before is in the context
  int first = 0;           // position of the first answer token in it; end: none
  int length() const { return end - first; }
};

std::vector<Piece> pieces_of(const models::Config& config, const MaskedText& text) {
  const int prompt = int(text.prompt.size()), size = prompt + int(text.answer.size());
  if (config.attention != models::AttentionKind::kBlockCausal) return {{0, size, prompt}};
  const int block = config.attention_block;
  std::vector<Piece> pieces;
  for (int begin = 0; begin < size; begin += block) {
    const int end = std::min(begin + block, size);
    pieces.push_back({begin, end, std::clamp(prompt, begin, end)});
  }
  return pieces;
}

double binomial(int n, int k) {
  double value = 1;
  for (int i = 1; i <= k; ++i) value = value * (n - k + i) / i;
  return value;
}

// Scores the masks of one text, piece after piece.
class Scorer {
 public:
  Scorer(engine::Engine& engine, const std::shared_ptr<engine::Request>& request,
         const MaskedText& text)
      : engine_(engine),
        config_(engine.model().config()),
        context_(engine, request),
        tokens_(text.prompt) {
    tokens_.insert(tokens_.end(), text.answer.begin(), text.answer.end());
  }

  void enter(const Piece& piece) { piece_ = piece; }
  const Piece& piece() const { return piece_; }

  // Of each mask the sum of its tokens' cross entropies. One forward.
  Task<std::vector<double>> losses(const std::vector<Mask>& masks) {
    engine::Rows query;
    for (const Mask& mask : masks) add_rows(query, mask);
    const engine::Answer answer = co_await engine_.forward(context_, std::move(query));
    std::vector<double> sums;
    for (size_t m = 0; m < masks.size(); ++m) {
      double sum = 0;
      for (const int p : masks[m]) {
        const auto& row = answer.rows[size_t(row_of(int(m), p))];
        sum += double(row.stats.lse) - double(row.at.front());
      }
      sums.push_back(sum);
    }
    co_return sums;
  }

  // Keeps the piece as it is: what later ones see.
  Task<void> keep() {
    engine::Rows query;
    add_rows(query, {});
    for (engine::Row& row : query.rows) row.write = engine::Write::append();
    co_await engine_.forward(context_, std::move(query));
  }

 private:
  int size() const { return piece_.end - piece_.begin; }
  // The row that predicts position p under mask number `mask`.
  int row_of(int mask, int p) const {
    return mask * size() + p - piece_.begin - (config_.shifted_logits ? 1 : 0);
  }

  void add_rows(engine::Rows& query, const Mask& mask) {
    const int first = int(query.rows.size());
    engine::View view;
    if (piece_.begin > 0) view.push_back(engine::Segment::slots(0, piece_.begin));
    view.push_back(engine::Segment::fresh(first, size()));
    const engine::ViewId id = query.add_view(std::move(view));
    for (int p = piece_.begin; p < piece_.end; ++p) {
      engine::Row& row = query.rows.emplace_back(tokens_[size_t(p)], p);
      row.view = id;
      row.write = engine::Write::none();
    }
    for (const int p : mask) {
      query.rows[size_t(first + p - piece_.begin)].in.token = config_.mask_token;
      engine::Want want;
      want.stats = true;
      want.at = {tokens_[size_t(p)]};
      query.rows[size_t(row_of(first / size(), p))].want = std::move(want);
    }
  }

  engine::Engine& engine_;
  const models::Config& config_;
  engine::Context context_;
  std::vector<int32_t> tokens_;
  Piece piece_;
};

// Streams of draws; the noise is what models of this kind are trained with.
Draws draws_of(const LikelihoodOptions& o, uint32_t text, int piece, uint32_t stream) {
  return Draws(DrawKey{o.seed, text, uint32_t(piece), stream, Purpose::kTrainingNoise});
}
constexpr uint32_t kRatioStreams = 1u << 24;  // those of the table; the rounds' come before

Mask some_of(const Piece& piece, int count, Draws& draws) {
  Mask positions(size_t(piece.length()));
  std::iota(positions.begin(), positions.end(), piece.first);
  draws.shuffle(positions);
  positions.resize(size_t(count));
  return positions;
}

struct Moments {
  double mean = 0, variance = 0;  // of the mean
};

Task<Moments> sampled(Scorer& scorer, const LikelihoodOptions& o, uint32_t text) {
  const Piece piece = scorer.piece();
  const int rounds = o.samples / o.strata;
  double sum = 0, squares = 0;
  for (int r = 0; r < rounds; ++r) {
    Draws draws = draws_of(o, text, piece.begin, uint32_t(r));
    std::vector<Mask> masks;
    for (const int count :
         stratified_counts(1 + draws.below(piece.length()), piece.length(), o.strata)) {
      masks.push_back(some_of(piece, count, draws));
    }
    const std::vector<double> losses = co_await scorer.losses(masks);
    double round = 0;
    for (size_t m = 0; m < masks.size(); ++m)
      round += losses[m] * piece.length() / double(masks[m].size());
    round /= o.strata;
    sum += round;
    squares += round * round;
  }
  const double mean = sum / rounds;
  const double spread = std::max(0.0, squares / rounds - mean * mean) * rounds / (rounds - 1);
  co_return Moments{mean, spread / rounds};
}

Task<Moments> enumerated(Scorer& scorer, const LikelihoodOptions& o) {
  const Piece piece = scorer.piece();
  const uint32_t all = (1u << piece.length()) - 1;
  double sum = 0;
  for (uint32_t next = 1; next <= all;) {
    std::vector<Mask> masks;
    for (; next <= all && int(masks.size()) < o.strata; ++next) {
      Mask& mask = masks.emplace_back();
      for (int i = 0; i < piece.length(); ++i) {
        if (next >> i & 1) mask.push_back(piece.first + i);
      }
    }
    const std::vector<double> losses = co_await scorer.losses(masks);
    for (size_t m = 0; m < masks.size(); ++m) {
      const int k = int(masks[m].size());
      sum += losses[m] / (k * binomial(piece.length(), k));
    }
  }
  co_return Moments{sum, 0};
}

Task<void> add_ratios(Scorer& scorer, const LikelihoodOptions& o, uint32_t text,
                      std::vector<Likelihood::Ratio>& table) {
  const Piece piece = scorer.piece();
  for (size_t t = 0; t < table.size(); ++t) {
    Draws draws = draws_of(o, text, piece.begin, kRatioStreams + uint32_t(t));
    std::vector<Mask> masks;
    for (int m = 0; m < o.ratio_masks; ++m) {
      Mask mask;
      for (int p = piece.first; p < piece.end; ++p) {
        if (t + 1 == table.size() || draws.chance(table[t].ratio)) mask.push_back(p);
      }
      if (!mask.empty()) masks.push_back(std::move(mask));
    }
    for (size_t first = 0; first < masks.size(); first += size_t(o.strata)) {
      const size_t last = std::min(masks.size(), first + size_t(o.strata));
      const std::vector<Mask> some(masks.begin() + long(first), masks.begin() + long(last));
      const std::vector<double> losses = co_await scorer.losses(some);
      for (const double loss : losses) table[t].nll += loss;
      for (const Mask& mask : some) table[t].masked += int64_t(mask.size());
    }
  }
}

bool is_causal(const models::Config& config) {
  return config.attention == models::AttentionKind::kCausal;
}

// -log p of the answer, read once from left to right.
Task<double> read_once(engine::Engine& engine, const std::shared_ptr<engine::Request>& request,
                       const MaskedText& text) {
  engine::Context context(engine, request);
  std::vector<int32_t> tokens = text.prompt;
  tokens.insert(tokens.end(), text.answer.begin(), text.answer.end() - 1);
  engine::Rows query = engine::Rows::append(tokens, 0, std::nullopt);
  const size_t first = text.prompt.size() - 1;  // the row that predicts the answer's first token
  for (size_t i = 0; i < text.answer.size(); ++i) {
    engine::Want want;
    want.stats = true;
    want.at = {text.answer[i]};
    query.rows[first + i].want = std::move(want);
  }
  const engine::Answer answer = co_await engine.forward(context, std::move(query));
  double sum = 0;
  for (size_t i = 0; i < text.answer.size(); ++i) {
    const auto& row = answer.rows[first + i];
    sum += double(row.stats.lse) - double(row.at.front());
  }
  co_return sum;
}

void check_model(const models::Config& config) {
  if (is_causal(config)) return;
  if (config.attention == models::AttentionKind::kPermutation) {
    throw Error(ErrorKind::kUnsupported, "likelihood: masks tokens, but this model (" +
                                             config.architecture +
                                             ") predicts in an order; use 'tutti score'");
  }
  models::require_mask_token(config, "likelihood");
  if (config.shifted_logits && config.attention == models::AttentionKind::kBlockCausal) {
    throw Error(ErrorKind::kUnsupported,
                "likelihood: shifted logits and blocks of attention do not go together");
  }
}

void check_options(const LikelihoodOptions& o) {
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorKind::kUsage, "likelihood: " + what);
  };
  if (o.strata < 1) refuse("masks of a round: at least 1");
  if (o.ratio_masks < 0) refuse("masks of a ratio: at least 0");
  if (!o.exact && (o.samples % o.strata != 0 || o.samples / o.strata < 2)) {
    refuse(std::to_string(o.samples) + " samples are not two or more rounds of " +
           std::to_string(o.strata) + "; give a multiple of that");
  }
}

void check_text(const MaskedText& text, size_t number, const models::Config& config,
                const LikelihoodOptions& o) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorKind::kUsage, "likelihood: text " + std::to_string(number + 1) + " " + what);
  };
  if (text.answer.empty()) refuse("has an answer without tokens");
  if ((config.shifted_logits || is_causal(config)) && text.prompt.empty()) {
    refuse("has no prompt, and this model says nothing about a first token; give one");
  }
  const size_t size = text.prompt.size() + text.answer.size();
  if (size > size_t(config.context_length)) {
    refuse("has " + std::to_string(size) + " tokens; the model reads " +
           std::to_string(config.context_length));
  }
  if (!o.exact || is_causal(config)) return;
  for (const Piece& piece : pieces_of(config, text)) {
    if (piece.length() > kMostExact) {
      refuse("has " + std::to_string(piece.length()) +
             " tokens to mask; every mask can be tried of at most " + std::to_string(kMostExact));
    }
  }
}

}  // namespace

std::vector<int> stratified_counts(int first, int length, int count) {
  std::vector<int> counts;
  for (int i = 0; i < count; ++i) {
    const int64_t step = (int64_t(i) * length + count / 2) / count;
    counts.push_back(int((first - 1 + step) % length) + 1);
  }
  return counts;
}

double Likelihood::nll() const {
  double sum = 0;
  for (const Answer& a : answers) sum += a.nll;
  return sum;
}

double Likelihood::standard_error() const {
  double variance = 0;
  for (const Answer& a : answers) variance += a.standard_error * a.standard_error;
  return std::sqrt(variance);
}

int64_t Likelihood::tokens() const {
  int64_t sum = 0;
  for (const Answer& a : answers) sum += a.tokens;
  return sum;
}

Likelihood likelihood(engine::Engine& engine, std::span<const MaskedText> texts,
                      const LikelihoodOptions& options,
                      const std::function<void(int, int)>& progress) {
  const models::Config& config = engine.model().config();
  check_model(config);
  check_options(options);
  for (size_t i = 0; i < texts.size(); ++i) check_text(texts[i], i, config, options);
  Likelihood result;
  if (options.ratio_masks > 0 && !is_causal(config)) {
    for (int tenths = 1; tenths <= 10; ++tenths) result.ratios.push_back({tenths / 10.0, 0, 0});
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    Likelihood::Answer& answer = result.answers.emplace_back();
    answer.tokens = int(texts[i].answer.size());
    double variance = 0;
    const auto request = engine.new_request();
    run_to_end(engine, request, [&]() -> Task<void> {
      if (is_causal(config)) {
        answer.nll = co_await read_once(engine, request, texts[i]);
        co_return;
      }
      Scorer scorer(engine, request, texts[i]);
      for (const Piece& piece : pieces_of(config, texts[i])) {
        scorer.enter(piece);
        if (piece.length() > 0) {
          Moments moments;
          if (options.exact) {
            moments = co_await enumerated(scorer, options);
          } else {
            moments = co_await sampled(scorer, options, uint32_t(i));
          }
          answer.nll += moments.mean;
          variance += moments.variance;
          co_await add_ratios(scorer, options, uint32_t(i), result.ratios);
        }
        if (piece.end < int(texts[i].prompt.size() + texts[i].answer.size()))
          co_await scorer.keep();
      }
    });
    answer.standard_error = std::sqrt(variance);
    if (progress) progress(int(i) + 1, int(texts.size()));
  }
  return result;
}

}  // namespace tutti::eval
