#include "decode/diffusion/denoiser.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tensor/kernels.h"

namespace tutti::decode::diffusion {
namespace {

constexpr int kBlock = 32;          // positions, unless the model or the request says otherwise
constexpr int kStoreRows = 256;     // of a prompt's blocks in one forward
constexpr int kExpectedTokens = 8;  // of the embedding that smoothing mixes in

int answer_size(const Generation& g, const models::Config& config) {
  const int prompt = int(g.prompt().size());
  if (config.attention != models::AttentionKind::kBlockCausal) return g.room();
  // Whole blocks, as the model was trained, as far as its context reaches.
  const int block = config.attention_block;
  const int whole = (prompt + g.room() + block - 1) / block * block;
  return whole <= config.context_length ? whole - prompt : g.room();
}

Canvas make_canvas(const Generation& g, const DiffusionOptions& o) {
  const models::Config& config = g.engine().model().config();
  models::require_mask_token(config, "method " + g.options().method);
  const int prompt = int(g.prompt().size()), answer = answer_size(g, config);
  if (config.attention == models::AttentionKind::kBlockCausal) {
    const int block = config.attention_block;
    return {g.prompt(), answer, config.mask_token, block, prompt / block * block};
  }
  const int block = o.block < 0 ? kBlock : o.block;
  return {g.prompt(), answer, config.mask_token, block > 0 ? std::min(block, answer) : answer,
          prompt};
}

}  // namespace

Denoiser::Denoiser(Generation& g, std::unique_ptr<Policy> policy)
    : g_(g),
      options_(read_diffusion_options(g)),
      canvas_(make_canvas(g, options_)),
      policy_(std::move(policy)),
      context_(g.engine(), g.request(), g.options().cache_salt),
      unguided_(g.engine(), g.request(), g.options().cache_salt),
      sampling_(g.options().sampling),
      emitted_(int(g.prompt().size())) {
  const models::Config& config = g.engine().model().config();
  block_causal_ = config.attention == models::AttentionKind::kBlockCausal;
  shifted_ = config.shifted_logits;
  check_against_model(g, options_);
  const int blocks =
      (canvas_.size() - canvas_.first_block() + canvas_.block() - 1) / std::max(1, canvas_.block());
  if (options_.steps > 0) {
    if (options_.steps % blocks != 0) {
      refuse("option steps=" + std::to_string(options_.steps) + ": is shared by " +
             std::to_string(blocks) + " blocks; give a multiple of that");
    }
    options_.policy.steps = options_.steps / blocks;
    const bool whole_block =
        options_.policy.name == "schedule" || options_.policy.name == "confident";
    steps_per_block_ = whole_block ? 0 : options_.policy.steps;
  }
  plain_argmax_ = takes_argmax(sampling_, options_);
  sampling_.suppressed.push_back(config.mask_token);
  if (options_.no_end) {
    sampling_.suppressed.insert(sampling_.suppressed.end(), g.tokenizer().end_ids().begin(),
                                g.tokenizer().end_ids().end());
  }
  sampling_.logprobs = 0;
  options_.policy.key = g.draw_key(0);
  // The filter's block is the one asked for, also where the answer is shorter.
  const int block = block_causal_ || options_.block == 0 ? canvas_.block()
                    : options_.block < 0                 ? kBlock
                                                         : options_.block;
  if (!policy_) policy_ = make_policy(options_.policy, block);
  picked_.resize(size_t(canvas_.size()));
  leaders_.resize(size_t(canvas_.size()));
  pin_structure();
  if (options_.cut != Cut::kOff) cut_at_end({}, {});
}

void Denoiser::pin_structure() {
  const int prompt = canvas_.prompt(), answer = g_.room();
  std::vector<Commit> pinned;
  for (const auto& [position, text] : options_.pins) {
    const std::vector<int32_t> tokens = g_.tokenizer().encode(text);
    const int first = position < 0 ? answer + position : position;
    if (first < 0 || first + int(tokens.size()) > answer) {
      refuse("option pin=" + std::to_string(position) + ":" + text + ": " +
             std::to_string(tokens.size()) + " tokens do not lie within the answer's " +
             std::to_string(answer) + "; raise the number of tokens");
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int at = prompt + first + int(i);
      if (!canvas_.open(at))
        refuse("option pin=" + std::to_string(position) + ":" + text + ": overlaps another pin");
      canvas_.pin(at, tokens[i]);
      picked_[size_t(at)].token = tokens[i];
      pinned.push_back({at, tokens[i], 0});
    }
  }
  if (!pinned.empty()) report("pin", 0, pinned);
}

int Denoiser::free_rows() const {
  // A page is left for finished blocks that the same forward stores.
  return std::max(0, g_.engine().pages().free() - 1) * tensor::kPageSlots;
}

int Denoiser::states_that_fit() const { return std::max(1, free_rows() / std::max(1, fed_)); }

bool Denoiser::finished() const { return canvas_.done() || (options_.early_stop && g_.done()); }

bool Denoiser::finishes(const Canvas& state) const {
  if (state.done()) return true;
  if (!options_.early_stop) return false;
  const int prompt = canvas_.prompt(), settled = state.settled();
  if (settled - prompt >= int(g_.output().size()) + g_.room()) return true;
  const auto first = state.tokens().begin();
  return std::any_of(first + prompt, first + settled,
                     [&](int32_t token) { return g_.is_end(token); });
}

bool Denoiser::refresh_due() const {
  if (looks_ < options_.warmup || context_.size() != canvas_.size()) return true;
  if (options_.refresh_every > 0 && since_refresh_ >= options_.refresh_every) return true;
  return canvas_.begin() != refreshed_block_ && options_.cache != Cache::kDelayed;
}

// Positions that a forward computes beside cached ones, ascending.
std::vector<int> Denoiser::positions_fed(const std::vector<int>& wanted) const {
  const int size = canvas_.size();
  std::vector<bool> in(size_t(size), false);
  const auto range = [&](int begin, int end) {
    for (int p = std::max(begin, 0); p < std::min(end, size); ++p) in[size_t(p)] = true;
  };
  // With shifted logits the position before the block predicts its first one. It goes along also
  // when that is written: what a forward sees is to depend on the sequence alone.
  const int begin = canvas_.begin() - (shifted_ ? 1 : 0);
  switch (options_.cache) {
    case Cache::kNone:
      range(0, size);
      break;
    case Cache::kPrefix:
      range(begin, size);
      break;
    case Cache::kDual:
      range(begin, canvas_.end());
      break;
    case Cache::kVicinity:
      range(std::min(begin, canvas_.begin() - options_.window), canvas_.end() + options_.window);
      break;
    case Cache::kDelayed:
      for (int p = 0; p < size; ++p) in[size_t(p)] = !cached_[size_t(p)];
      break;
  }
  // Delayed: who predicts a wanted position must be there, too.
  for (const int p : wanted) in[size_t(p - (shifted_ ? 1 : 0))] = true;
  std::vector<int> fed;
  for (int p = 0; p < size; ++p) {
    if (in[size_t(p)]) fed.push_back(p);
  }
  return fed;
}

std::vector<int> Denoiser::positions_wanted(const Canvas& state, int end) const {
  std::vector<int> wanted;
  for (int p = canvas_.begin(); p < end; ++p) {
    // A shifted model says nothing about the first position of all.
    if (state.open(p) || (policy_->sees_written() && p >= (shifted_ ? 1 : 0))) wanted.push_back(p);
  }
  return wanted;
}

engine::Want Denoiser::want_of(int position) const {
  engine::Want want;
  want.stats = true;
  if (!plain_argmax_) {
    want.pick = true;
    want.sampling = sampling_;
    want.key = g_.draw_key(position);
    if (options_.fresh_noise) want.key.path = fork_path(want.key.path, uint32_t(looks_));
  }
  want.at = policy_->listed(position);
  if (options_.smoothing > 0) want.top_k = kExpectedTokens;
  return want;
}

engine::Row Denoiser::row_of(const Canvas& state, int position) const {
  engine::Row row = g_.row_of(state.tokens()[size_t(position)], position);
  row.write = engine::Write::none();
  if (options_.smoothing > 0 && state.open(position) && !expected_.empty() &&
      !expected_[size_t(position)].empty()) {
    const float share = std::min(options_.smoothing, 0.15f + 0.02f * float(smoothing_step_));
    float sum = 0;
    for (const auto& [id, p] : expected_[size_t(position)]) sum += p;
    row.in.kind = models::RowInput::kMix;
    row.in.ids = {canvas_.mask()};
    row.in.weights = {1.0f - share};
    for (const auto& [id, p] : expected_[size_t(position)]) {
      row.in.ids.push_back(id);
      row.in.weights.push_back(share * p / sum);
    }
  }
  return row;
}

// Rows that append positions [context_.size(), end) of the canvas, whole blocks, each seeing its
// block and those before.
void Denoiser::add_store_rows(engine::Rows& rows, int end) const {
  const int stored = context_.size();
  for (int p = stored; p < end;) {
    engine::View view;
    const int block_end = canvas_.end_of(p);
    if (stored > 0) view.push_back(engine::Segment::slots(0, stored));
    view.push_back(engine::Segment::fresh(0, block_end - stored));
    const engine::ViewId id = rows.add_view(std::move(view));
    for (; p < block_end; ++p) {
      engine::Row row = g_.row_of(canvas_.tokens()[size_t(p)], p);
      row.view = id;
      row.write = engine::Write::append();
      rows.rows.push_back(std::move(row));
    }
  }
}

namespace {

// The same rows for a reader that knows nothing of the prompt, whose positions are below `answer`.
engine::Rows without_prompt(engine::Rows rows, int answer, int32_t mask) {
  for (engine::Row& row : rows.rows) {
    if (row.position.t < answer) {
      row.in = {};
      row.in.token = mask;
    }
    if (row.want) {
      row.want = engine::Want();
      row.want->stats = true;
    }
  }
  return rows;
}

// logits = u + (1 + guidance)(c - u), row by row.
void guide(engine::Rows& rows, float guidance) {
  for (size_t i = 0; i < rows.rows.size(); ++i) {
    if (rows.rows[i].want)
      rows.rows[i].want->mix = {{0, int(i), 1 + guidance}, {1, int(i), -guidance}};
  }
}

}  // namespace

Task<engine::Answer> Denoiser::forward(engine::Rows rows) {
  engine::Answer answer;
  if (options_.guidance != 0) {
    std::vector<engine::Part> parts;
    engine::Rows blind = without_prompt(rows, g_.answer_position(), canvas_.mask());
    guide(rows, options_.guidance);
    parts.emplace_back(context_, std::move(rows));
    parts.emplace_back(unguided_, std::move(blind));
    answer = std::move((co_await g_.forward(std::move(parts))).front());
  } else {
    answer = co_await g_.forward(context_, std::move(rows));
  }
  ++g_.statistics().forwards;
  co_return answer;
}

Task<void> Denoiser::store_until(int end) {
  while (context_.size() < end) {
    const int block = canvas_.block();
    engine::Rows rows;
    add_store_rows(rows, std::min(end, context_.size() + std::max(1, kStoreRows / block) * block));
    const int count = int(rows.rows.size());
    co_await forward(std::move(rows));
    ++g_.statistics().stores;
    report("store", count, {});
  }
}

std::vector<int> Denoiser::add_block_rows(engine::Rows& rows,
                                          const std::vector<const Canvas*>& states, int end) const {
  const int begin = canvas_.begin(), stored = context_.size(), fresh = begin - stored;
  add_store_rows(rows, begin);
  std::vector<int> fed;
  for (int p = begin; p < end; ++p) fed.push_back(p);
  for (const Canvas* state : states) {
    const int offset = int(rows.rows.size());
    for (int p = begin; p < end;) {
      engine::View view;
      const int block_end = std::min(canvas_.end_of(p), end);
      if (stored > 0) view.push_back(engine::Segment::slots(0, stored));
      if (fresh > 0) view.push_back(engine::Segment::fresh(0, fresh));
      view.push_back(engine::Segment::fresh(offset, block_end - begin));
      const engine::ViewId id = rows.add_view(std::move(view));
      for (; p < block_end; ++p) {
        engine::Row row = row_of(*state, p);
        row.view = id;
        rows.rows.push_back(std::move(row));
      }
    }
  }
  return fed;
}

namespace {

// Fed rows, which begin at `offset`, and kept slots by turns: positions in order, so that sums run
// as they do without a cache.
engine::View view_in_order(const std::vector<int>& fed, int offset, int size) {
  engine::View view;
  for (size_t i = 0, p = 0; p < size_t(size);) {
    if (i < fed.size() && size_t(fed[i]) == p) {
      size_t j = i;
      while (j + 1 < fed.size() && fed[j + 1] == fed[j] + 1) ++j;
      view.push_back(engine::Segment::fresh(offset + int(i), int(j - i) + 1));
      p = size_t(fed[j]) + 1;
      i = j + 1;
    } else {
      const size_t next = i < fed.size() ? size_t(fed[i]) : size_t(size);
      view.push_back(engine::Segment::slots(int(p), int(next - p)));
      p = next;
    }
  }
  return view;
}

}  // namespace

std::vector<int> Denoiser::add_rows(engine::Rows& rows, const std::vector<const Canvas*>& states,
                                    const std::vector<int>& wanted, bool whole, bool append) const {
  std::vector<int> fed;
  if (whole) {
    for (int p = 0; p < canvas_.size(); ++p) fed.push_back(p);
  } else {
    fed = positions_fed(wanted);
  }
  for (const Canvas* state : states) {
    const engine::ViewId id =
        rows.add_view(view_in_order(fed, int(rows.rows.size()), canvas_.size()));
    for (const int p : fed) {
      engine::Row row = row_of(*state, p);
      row.view = id;
      if (append) row.write = engine::Write::append();
      if (!whole && options_.cache == Cache::kDelayed && !cached_[size_t(p)] && !canvas_.open(p)) {
        row.write = engine::Write::at(p);
      }
      rows.rows.push_back(std::move(row));
    }
  }
  return fed;
}

Task<std::vector<std::vector<Prediction>>> Denoiser::look(std::vector<const Canvas*> states,
                                                          int blocks) {
  const int end = canvas_.end_after(blocks);
  engine::Rows rows;
  std::vector<int> fed;
  size_t first = 0;  // rows before those of the first state
  bool append = false;
  if (block_causal_) {
    const int begin = canvas_.begin();
    if (options_.store_apart || begin - context_.size() > kStoreRows) co_await store_until(begin);
    first = size_t(begin - context_.size());
    fed = add_block_rows(rows, states, end);
  } else {
    const bool caching = options_.cache != Cache::kNone, whole = !caching || refresh_due();
    append = caching && whole && states.size() == 1;
    if (whole) {
      context_ = engine::Context(g_.engine(), g_.request(), g_.options().cache_salt);
      unguided_ = engine::Context(g_.engine(), g_.request(), g_.options().cache_salt);
    }
    fed = add_rows(rows, states, positions_wanted(canvas_, end), whole, append);
  }
  std::vector<std::vector<Asked>> asked(states.size());
  for (size_t s = 0; s < states.size(); ++s) {
    asked[s] = ask(rows, *states[s], end, fed, first + s * fed.size());
  }
  report_look();
  fed_ = int(fed.size());
  looked_rows_ = int(rows.rows.size()) * (options_.guidance != 0 ? 2 : 1);
  looked_ = append ? "refresh" : "denoise";
  const engine::Answer answer = co_await forward(std::move(rows));
  ++looks_;
  if (append) {
    ++g_.statistics().refreshes;
    since_refresh_ = 1;
    refreshed_block_ = canvas_.begin();
  } else {
    ++since_refresh_;
  }
  if (options_.cache == Cache::kDelayed) {
    cached_.resize(size_t(canvas_.size()), false);
    for (int p = 0; p < canvas_.size(); ++p) cached_[size_t(p)] = !canvas_.open(p);
  }
  std::vector<std::vector<Prediction>> out(states.size());
  for (size_t s = 0; s < states.size(); ++s) {
    for (const Asked& a : asked[s])
      out[s].push_back(read(*states[s], a.position, answer.rows[a.row]));
  }
  if (options_.smoothing > 0) expect(asked[0], answer);
  co_return out;
}

std::vector<Denoiser::Asked> Denoiser::ask(engine::Rows& rows, const Canvas& state, int end,
                                           const std::vector<int>& fed, size_t offset) const {
  std::vector<int> positions = positions_wanted(state, end);
  if (options_.cut == Cut::kReference) {
    const std::vector<int> rest = state.open_in(end, canvas_.size());
    positions.insert(positions.end(), rest.begin(), rest.end());
  }
  std::vector<Asked> asked;
  const int shift = shifted_ ? 1 : 0;
  for (const int p : positions) {
    const auto it = std::ranges::lower_bound(fed, p - shift);
    if (it == fed.end() || *it != p - shift) continue;
    const size_t row = offset + size_t(it - fed.begin());
    rows.rows[row].want = want_of(p);
    asked.push_back({p, row});
  }
  return asked;
}

void Denoiser::expect(const std::vector<Asked>& asked, const engine::Answer& answer) {
  expected_.resize(size_t(canvas_.size()));
  for (const Asked& a : asked) {
    auto& expected = expected_[size_t(a.position)];
    expected.clear();
    for (const auto& [id, logit] : answer.rows[a.row].top) {
      const float log_p = logit - answer.rows[a.row].stats.lse;
      float p = 0;
      tensor::kernels().exp(&log_p, 1, &p);
      if (id != canvas_.mask()) expected.emplace_back(id, p);
    }
  }
  ++smoothing_step_;
}

Prediction Denoiser::read(const Canvas& state, int position,
                          const engine::RowAnswer& answer) const {
  const tensor::VocabStats& s = answer.stats;
  Prediction p;
  p.position = position;
  p.open = state.open(position);
  const bool masked = s.best == canvas_.mask();
  p.likeliest = masked ? s.second : s.best;
  p.likeliest_logit = masked ? s.second_max : s.max;
  p.log_sum_exp = s.lse;
  p.entropy = s.entropy;
  p.token = p.likeliest;
  p.log_probability = p.likeliest_logit - s.lse;
  if (!plain_argmax_) {
    p.token = answer.picked.token;
    p.log_probability = answer.picked.raw_log_probability;
  }
  const float logs[] = {p.log_probability, s.max - s.lse, s.second_max - s.lse};
  float exps[3];
  tensor::kernels().exp(logs, 3, exps);
  p.probability = exps[0];
  p.margin = masked ? 0.0f : exps[1] - exps[2];  // the runner-up of the runner-up is not known
  const std::vector<int32_t> listed = policy_->listed(position);
  for (size_t i = 0; i < listed.size(); ++i) p.listed.emplace_back(listed[i], answer.at[i]);
  p.last = options_.late_end && g_.is_end(p.token);
  return p;
}

void Denoiser::count_waits(std::span<const Commit> commits,
                           std::span<const Prediction> predictions) {
  for (const Prediction& p : predictions) {
    Leader& leader = leaders_[size_t(p.position)];
    leader = {p.likeliest, leader.token == p.likeliest ? leader.steps + 1 : 0};
  }
  std::vector<uint64_t>& waits = g_.statistics().waits;
  for (const Commit& c : commits) {
    const Leader& leader = leaders_[size_t(c.position)];
    const size_t steps = leader.token == c.token ? size_t(leader.steps) : 0;
    if (waits.size() <= steps) waits.resize(steps + 1);
    ++waits[steps];
  }
}

void Denoiser::commit(std::span<const Commit> commits, std::span<const Prediction> predictions) {
  count_waits(commits, predictions);
  canvas_.commit(commits);
  for (const Commit& c : commits) {
    engine::Picked& picked = picked_[size_t(c.position)];
    picked.token = c.token;
    picked.log_probability = picked.raw_log_probability = c.log_probability;
  }
  if (options_.cut != Cut::kOff) cut_at_end(commits, predictions);
  report(looked_.empty() ? "commit" : looked_, looked_rows_, commits);
  looked_ = {};
  looked_rows_ = 0;
  emit_settled();
}

void Denoiser::cut_at_end(std::span<const Commit> commits,
                          std::span<const Prediction> predictions) {
  int end = canvas_.size();
  const auto at = [&](int position) { end = std::min(end, position + 1); };
  if (options_.cut == Cut::kCommitted) {
    for (int p = canvas_.prompt(); p < canvas_.size(); ++p) {
      if (!canvas_.open(p) && g_.is_end(canvas_.tokens()[size_t(p)])) at(p);
    }
  } else {
    for (const Commit& c : commits) {
      if (g_.is_end(c.token)) at(c.position);
    }
    const Prediction* surest = nullptr;
    for (const Prediction& p : predictions) {
      if (!canvas_.open(p.position) || !g_.is_end(p.token) ||
          p.probability < options_.cut_probability)
        continue;
      if (!surest || p.log_probability > surest->log_probability) surest = &p;
    }
    if (end == canvas_.size() && surest) at(surest->position);
  }
  // A block of attention sees all of itself: it stays whole.
  if (block_causal_)
    end = std::min(canvas_.size(), (end + canvas_.block() - 1) / canvas_.block() * canvas_.block());
  if (end == canvas_.size()) return;
  canvas_.truncate(end);
  for (engine::Context* context : {&context_, &unguided_}) {
    if (context->size() > end) context->truncate(end);
  }
  if (!cached_.empty()) cached_.resize(size_t(end));
}

void Denoiser::emit_settled() {
  while (emitted_ < canvas_.settled() && !g_.done()) g_.emit(picked_[size_t(emitted_++)]);
}

void Denoiser::close() {
  emit_settled();
  if (!g_.done()) g_.emit_all({}, 0);
}

void Denoiser::report_look() {
  if (!looked_.empty()) report(looked_, looked_rows_, {});
  looked_ = {};
}

void Denoiser::report(std::string_view kind, int rows, std::span<const Commit> commits) {
  if (!g_.options().on_canvas) return;
  CanvasStep step;
  step.choice = g_.choice();
  step.forward = g_.statistics().forwards;
  step.kind = kind;
  step.rows = rows;
  step.prompt = canvas_.prompt();
  step.mask = canvas_.mask();
  step.tokens = canvas_.tokens();
  for (const Commit& c : commits) step.written.push_back({c.position, c.token, c.log_probability});
  g_.options().on_canvas(step);
}

}  // namespace tutti::decode::diffusion
