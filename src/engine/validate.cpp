// What is wrong with a query, found before it is put down.
#include <cmath>
#include <string>

#include "base/error.h"
#include "engine/engine.h"

namespace tutti::engine {

void Engine::validate(const Query& query) const {
  const models::Config& c = model_->config();
  const auto bad = [](size_t part, size_t row, const std::string& what) {
    throw Error(ErrorKind::kUsage, "query part " + std::to_string(part) + ", row " +
                                       std::to_string(row) + ": " + what);
  };
  if (query.parts.empty()) throw Error(ErrorKind::kUsage, "query: has no parts");
  for (size_t p = 0; p < query.parts.size(); ++p) {
    const auto& part = query.parts[p];
    if (part.rows.rows.empty()) bad(p, 0, "a part needs at least one row");
    if (part.context->engine != this) bad(p, 0, "the Context belongs to another engine");
    for (size_t other = 0; other < p; ++other) {
      if (query.parts[other].context == part.context)
        bad(p, 0, "the Context is already named by another part");
    }
    if (part.rows.splittable && query.parts.size() > 1)
      bad(p, 0, "a splittable append must be the only part");
    if (part.rows.classes.size() > size_t(tensor::kMaxSoftmaxClasses)) {
      bad(p, 0, "at most " + std::to_string(tensor::kMaxSoftmaxClasses) + " softmax classes");
    }
    if (!part.rows.classes.empty() && !part.context->weighed.empty()) {
      bad(p, 0, "brings softmax classes to a Context that has weighed slots");
    }
    const int slots = part.context->size();
    for (size_t r = 0; r < part.rows.rows.size(); ++r) {
      const Row& row = part.rows.rows[r];
      switch (row.in.kind) {
        case RowInput::kToken:
          if (row.in.token < 0 || row.in.token >= c.vocab) {
            bad(p, r,
                "token " + std::to_string(row.in.token) + " is not in [0, " +
                    std::to_string(c.vocab) + ")");
          }
          break;
        case RowInput::kVector:
          if (row.in.vector.size() != size_t(c.hidden)) {
            bad(p, r,
                "a vector of " + std::to_string(row.in.vector.size()) + " for a hidden size of " +
                    std::to_string(c.hidden));
          }
          for (const float x : row.in.vector) {
            if (!std::isfinite(x)) bad(p, r, "the vector holds a value that is not finite");
          }
          break;
        case RowInput::kMix:
          if (row.in.ids.empty() || row.in.ids.size() != row.in.weights.size()) {
            bad(p, r, "a mix needs as many weights as ids");
          }
          for (const int32_t id : row.in.ids) {
            if (id < 0 || id >= c.vocab)
              bad(p, r, "mix id " + std::to_string(id) + " is not in the vocabulary");
          }
          break;
        case RowInput::kFromRow:
          if (row.in.row < 0 || size_t(row.in.row) >= r)
            bad(p, r, "takes its input from a row that is not before it");
          if (row.in.map && row.in.map->width != c.hidden)
            bad(p, r, "the map's width is not the hidden size");
          if (part.rows.rows[size_t(row.in.row)].active.enter > std::max(row.active.enter, 0)) {
            bad(p, r, "takes its input from a row that enters at a later layer");
          }
          break;
        case RowInput::kMask:
          if (model_->checkpoint().weights().mask.empty())
            bad(p, r, "the model has no mask vector");
          break;
      }
      if ((c.relative || c.is_encoder()) &&
          (row.position.t < 0 || row.position.t >= c.context_length)) {
        bad(p, r,
            "position " + std::to_string(row.position.t) + " is not in [0, " +
                std::to_string(c.context_length) + "), the context of the model");
      }
      if (c.is_encoder() && (row.segment_id < 0 || row.segment_id >= c.token_types)) {
        bad(p, r,
            "segment " + std::to_string(row.segment_id) + " is not in [0, " +
                std::to_string(c.token_types) + "), the kinds of tokens of the model");
      }
      if (row.view != kCausalView && (row.view < 0 || size_t(row.view) >= part.rows.views.size())) {
        bad(p, r, "view " + std::to_string(row.view) + " does not exist");
      }
      if (row.write.to == Write::kSlot && (row.write.slot < 0 || row.write.slot >= slots)) {
        bad(p, r, "writes slot " + std::to_string(row.write.slot) + " of " + std::to_string(slots));
      }
      if (part.rows.splittable && (row.view != kCausalView || row.write.to != Write::kAppend ||
                                   row.in.kind == RowInput::kFromRow || row.active.enter != 0 ||
                                   row.active.leave < c.layers || !row.sees_self)) {
        bad(p, r, "a splittable append holds plain causal rows only");
      }
      if (!row.want) continue;
      if (row.want->needs_head()) models::require_head(c, "query");
      for (const int layer : row.want->hidden) {
        if (layer < 0 || layer > c.layers)
          bad(p, r, "wants the state at layer " + std::to_string(layer));
        if (row.in.kind == RowInput::kFromRow && layer < std::min(row.active.enter, c.layers)) {
          bad(p, r, "wants the state at layer " + std::to_string(layer) + ", before it has one");
        }
      }
      for (const auto& range : row.want->mass) {
        if (range.first < 0 || range.count < 0 || range.first > slots ||
            range.count > slots - range.first) {
          bad(p, r, "wants the attention to slots that are not there");
        }
        if (row.active.enter > 0 || row.active.leave < c.layers) {
          bad(p, r, "wants its attention, but does not run through all layers");
        }
      }
      for (const int32_t id : row.want->at) {
        if (id < 0 || id >= c.vocab) bad(p, r, "wants the logit of id " + std::to_string(id));
      }
      if (!row.want->mix.empty() && part.rows.splittable) {
        bad(p, r, "mixes rows of a splittable append, which may lie in different ticks");
      }
      for (const auto& term : row.want->mix) {
        const bool known = term.part >= 0 && size_t(term.part) < query.parts.size() &&
                           term.row >= 0 &&
                           size_t(term.row) < query.parts[size_t(term.part)].rows.rows.size();
        if (!known) bad(p, r, "mixes a row that does not exist");
        const auto& mixed = query.parts[size_t(term.part)].rows.rows[size_t(term.row)].want;
        if (!mixed || !mixed->needs_head()) bad(p, r, "mixes a row whose logits are not wanted");
      }
    }
    for (const View& view : part.rows.views) {
      for (const Segment& s : view) {
        if (s.first < 0 || s.softmax_class >= tensor::kMaxSoftmaxClasses)
          bad(p, 0, "a view names a bad segment");
        if (s.of == Segment::kSlots &&
            (s.first > slots || (s.count >= 0 && s.first + s.count > slots))) {
          bad(p, 0, "a view names slots past the " + std::to_string(slots) + " of the Context");
        }
        if (s.of == Segment::kModelPrefix && size_t(s.first) >= prefixes_.size()) {
          bad(p, 0,
              "a view names model prefix " + std::to_string(s.first) + ", which does not exist");
        }
      }
    }
  }
}

}  // namespace tutti::engine
