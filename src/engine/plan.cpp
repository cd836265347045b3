#include "engine/plan.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace tutti::engine {
namespace {

LayerRange clamp_layers(LayerRange range, int layers) {
  range.enter = std::clamp(range.enter, 0, layers);
  range.leave = std::clamp(range.leave, range.enter, layers);
  return range;
}

// The classes of a unit's rows; of a rebuilt row, those of its recipe.
const std::vector<tensor::SoftmaxClass>& classes_of(const PlannedRows& unit,
                                                    const SpecialRow* recipe) {
  if (unit.rows && !unit.rows->classes.empty()) return unit.rows->classes;
  if (recipe && !recipe->classes.empty()) return recipe->classes;
  return unit.context->classes;
}

bool all_layers(const LayerRange& range, int layers) {
  return range.enter == 0 && range.leave >= layers;
}

}  // namespace

bool Plan::claim(PlannedRows& unit) {
  ContextState& context = *unit.context;
  unit.base = context.resident;
  // Pages that are written over come first: a tail page that is copied moves, and with it the
  // places behind its slots.
  for (int i = 0; unit.rows && i < unit.count; ++i) {
    const Write& write = unit.rows->rows[size_t(unit.first + i)].write;
    if (write.to == Write::kSlot && !own_page(context, write.slot)) return false;
  }
  for (int i = 0; i < unit.count; ++i) {
    const bool append =
        !unit.rows || unit.rows->rows[size_t(unit.first + i)].write.to == Write::kAppend;
    ContextState::Place place{-1, 0};
    if (append) {
      place = context.place(pool_);
    } else if (!scratch_.empty() && scratch_.back().count < tensor::kPageSlots) {
      place = {scratch_.back().page.id(), scratch_.back().count++};
    } else if (const PageId page = pool_.allocate(); page >= 0) {
      scratch_.push_back({PageRef::adopt(pool_, page), 0, 1});
      place = {page, 0};
    }
    if (place.page < 0) return false;
    unit.places.push_back(place);
    unit.appended.push_back(append ? context.resident - 1 : -1);
  }
  return true;
}

// Makes sure that nobody else sees the page of `slot`, copying it if need be: only overwriting
// copies.
bool Plan::own_page(ContextState& context, int slot) {
  for (PageSpan& span : context.spans) {
    if (slot >= span.count) {
      slot -= span.count;
      continue;
    }
    if (!span.page.shared()) return true;
    const PageId copy = pool_.allocate();
    if (copy < 0) return false;
    pool_.copy_page(span.page.id(), copy);
    span.page = PageRef::adopt(pool_, copy);
    if (&span == &context.spans.back()) context.tail_owned = true;
    return true;
  }
  return true;
}

void Plan::undo(PlannedRows& unit) { unit.context->truncate_resident(unit.base); }

bool Plan::add(ContextState& context, const Rows& rows, int first, int count) {
  PlannedRows unit;
  unit.context = &context;
  unit.rows = &rows;
  unit.first = first;
  unit.count = count;
  unit.batch_first = rows_;
  if (!claim(unit)) {
    undo(unit);
    return false;
  }
  rows_ += count;
  context.in_plan = true;
  units_.push_back(std::move(unit));
  return true;
}

bool Plan::add_rebuild(ContextState& context, int count) {
  PlannedRows unit;
  unit.context = &context;
  unit.first = context.resident;
  unit.count = count;
  unit.batch_first = rows_;
  if (!claim(unit)) {
    undo(unit);
    return false;
  }
  rows_ += count;
  context.in_plan = true;
  units_.push_back(std::move(unit));
  return true;
}

const Row& Plan::row_of(const PlannedRows& unit, int i, Row& made) const {
  if (unit.rows) return unit.rows->rows[size_t(unit.first + i)];
  const SlotRecipe& slot = unit.context->recipe[size_t(unit.first + i)];
  made = Row();
  if (slot.special) {
    made.in = slot.special->in;
    made.active = slot.special->active;
    made.sees_self = slot.special->sees_self;
  } else {
    made.in.token = slot.token;
  }
  made.position = slot.position;
  made.segment_id = slot.segment;
  return made;
}

void Plan::emit(int page, int slot, uint8_t softmax_class, models::KeyPlace place) {
  auto& runs = batch_.runs;
  if (config_.relative) batch_.key_places.push_back(place);
  if (runs.size() > span_first_) {
    tensor::KvRun& last = runs.back();
    if (last.page == page && last.first + last.count == slot &&
        last.softmax_class == softmax_class) {
      ++last.count;
      return;
    }
  }
  runs.push_back({page, uint8_t(slot), 1, softmax_class});
}

void Plan::build_runs(const PlannedRows& unit, int i, const Row& row, const SpecialRow* recipe,
                      const models::Epoch& epoch, bool sliding, const Want::SlotRange* only,
                      models::RunSpan& span) {
  const ContextState& context = *unit.context;
  const int lowest =
      sliding ? row.position.t - config_.window + 1 : INT32_MIN;  // positions visible from here
  const int layer = epoch.first_layer;
  span_first_ = batch_.runs.size();
  span.first = int(span_first_);
  span.first_key = int(batch_.key_places.size());

  // Slots [first, first + count) of `state`, all in one class.
  const auto slots_of = [&](const ContextState& state, int first, int count,
                            uint8_t softmax_class) {
    int at = 0;
    for (const PageSpan& s : state.spans) {
      const int from = std::max(first, at), to = std::min(first + count, at + int(s.count));
      if (from < to && lowest == INT32_MIN && !state.partial_layers) {
        // Whole run at once: nothing to filter.
        auto& runs = batch_.runs;
        const int slot = s.first + (from - at);
        const bool joins = runs.size() > span_first_ && runs.back().page == s.page.id() &&
                           runs.back().first + runs.back().count == slot &&
                           runs.back().softmax_class == softmax_class;
        if (joins) {
          runs.back().count = uint8_t(runs.back().count + (to - from));
        } else {
          runs.push_back({s.page.id(), uint8_t(slot), uint8_t(to - from), softmax_class});
        }
        for (int x = from; config_.relative && x < to; ++x) {
          const SlotRecipe& recipe = state.recipe[size_t(x)];
          batch_.key_places.push_back({recipe.position.t, recipe.segment});
        }
      } else {
        for (int x = from; x < to; ++x) {
          const SlotRecipe& slot = state.recipe[size_t(x)];
          if (slot.position.t < lowest) continue;
          if (slot.special) {
            const LayerRange range = clamp_layers(slot.special->active, config_.layers);
            if (layer < range.enter || layer >= range.leave) continue;
          }
          emit(s.page.id(), s.first + (x - at), softmax_class, {slot.position.t, slot.segment});
        }
      }
      at += s.count;
      if (at >= first + count) break;
    }
  };
  // Where the View says class 0, slots of the row's Context have the class that the Context gives
  // them.
  const int viewer = unit.rows ? INT32_MAX : unit.first + i;
  const auto slots = [&](int first, int count, uint8_t softmax_class) {
    const int end = first + count;
    for (const WeighedSlots& w : context.weighed) {
      const int from = std::max(first, w.first), to = std::min(end, w.first + w.count);
      if (softmax_class != 0 || from >= to || viewer < w.first + w.count) continue;
      slots_of(context, first, from - first, 0);
      slots_of(context, from, to - from, w.softmax_class);
      first = to;
    }
    slots_of(context, first, end - first, softmax_class);
  };
  bool self_done = false;
  const auto fresh = [&](int j, uint8_t softmax_class) {  // j: row within the unit
    if (j == i) {
      if (self_done || !row.sees_self) return;
      self_done = true;
    }
    models::KeyPlace place;
    if (unit.rows) {
      const Row& other = unit.rows->rows[size_t(unit.first + j)];
      const LayerRange range = clamp_layers(other.active, config_.layers);
      if (layer < range.enter || layer >= range.leave || other.position.t < lowest) return;
      place = {other.position.t, other.segment_id};
    } else {
      const SlotRecipe& slot = context.recipe[size_t(unit.first + j)];
      if (slot.position.t < lowest) return;
      place = {slot.position.t, slot.segment};
      if (slot.special) {
        const LayerRange range = clamp_layers(slot.special->active, config_.layers);
        if (layer < range.enter || layer >= range.leave) return;
      }
    }
    if (!unit.rows && softmax_class == 0) softmax_class = context.class_of(unit.first + j, viewer);
    emit(unit.places[size_t(j)].page, unit.places[size_t(j)].slot, softmax_class, place);
  };

  if (only) {
    slots(only->first, std::min(only->count, unit.base - only->first), 0);
  } else if (recipe && !recipe->causal) {
    // A rebuilt row sees the slots of its recipe: earlier ones, or ones rebuilt in this very tick.
    for (const auto& seen : recipe->seen) {
      for (int x = seen.first; x < seen.first + seen.count; ++x) {
        if (x < unit.base) {
          slots_of(context, x, 1, seen.softmax_class);
        } else if (x - unit.first < unit.count) {
          fresh(x - unit.first, seen.softmax_class);
        }
      }
    }
  } else if (row.view == kCausalView) {
    slots(0, unit.base, 0);
    for (int j = 0; j <= i; ++j) fresh(j, 0);
  } else {
    for (const Segment& segment : unit.rows->views[size_t(row.view)]) {
      switch (segment.of) {
        case Segment::kSlots: {
          const int end =
              segment.count < 0 ? unit.base : std::min(unit.base, segment.first + segment.count);
          slots(segment.first, end - segment.first, segment.softmax_class);
          break;
        }
        case Segment::kFreshRows: {
          int end =
              segment.count < 0 ? unit.count : std::min(unit.count, segment.first + segment.count);
          if (segment.causal) end = std::min(end, i + 1);
          for (int j = segment.first; j < end; ++j) fresh(j, segment.softmax_class);
          break;
        }
        case Segment::kModelPrefix: {
          const ContextState& prefix = *prefixes_[size_t(segment.first)];
          slots_of(prefix, 0, prefix.size(), segment.softmax_class);
          break;
        }
      }
    }
  }
  if (!only) fresh(i, 0);
  span.count = int(batch_.runs.size() - span_first_);
  span.keys = 0;
  for (size_t r = span_first_; r < batch_.runs.size(); ++r) span.keys += batch_.runs[r].count;
}

models::Batch& Plan::build() {
  const int layers = config_.layers;
  bool classes_differ = false;
  // Between two boundaries the same rows are active and the same slots have keys.
  std::vector<int> boundaries{0, layers};
  const auto slot_boundaries = [&](const ContextState& context) {
    if (!context.partial_layers) return;
    for (const SlotRecipe& slot : context.recipe) {
      if (!slot.special) continue;
      const LayerRange range = clamp_layers(slot.special->active, layers);
      boundaries.push_back(range.enter);
      boundaries.push_back(range.leave);
    }
  };
  for (const auto& prefix : prefixes_) slot_boundaries(*prefix);
  for (const PlannedRows& unit : units_) {
    slot_boundaries(*unit.context);
    if (!classes_of(unit, nullptr).empty()) classes_differ = true;
    for (int i = 0; i < unit.count; ++i) {
      Row made;
      const Row& row = row_of(unit, i, made);
      const LayerRange range = clamp_layers(row.active, layers);
      boundaries.push_back(range.enter);
      boundaries.push_back(range.leave);
      batch_.inputs.push_back(row.in);
      if (row.in.kind == RowInput::kFromRow)
        batch_.inputs.back().row += unit.batch_first - unit.first;
      batch_.positions.push_back(row.position);
      batch_.segments.push_back(row.segment_id);
      batch_.active.push_back(range);
      batch_.slots.push_back({unit.places[size_t(i)].page, unit.places[size_t(i)].slot});
      if (row.want && !row.want->mass.empty()) {
        batch_.mass.push_back({unit.batch_first + i, int(row.want->mass.size()), nullptr});
      }
      if (!unit.rows && unit.context->recipe[size_t(unit.first + i)].special &&
          !unit.context->recipe[size_t(unit.first + i)].special->classes.empty()) {
        classes_differ = true;
      }
    }
  }
  if (classes_differ) {
    for (const PlannedRows& unit : units_) {
      for (int i = 0; i < unit.count; ++i) {
        batch_.row_classes.push_back(classes_of(
            unit,
            unit.rows ? nullptr : unit.context->recipe[size_t(unit.first + i)].special.get()));
      }
    }
  }
  std::sort(boundaries.begin(), boundaries.end());
  boundaries.erase(std::unique(boundaries.begin(), boundaries.end()), boundaries.end());
  const bool slides =
      std::find(config_.sliding.begin(), config_.sliding.end(), true) != config_.sliding.end();
  for (size_t b = 0; b + 1 < boundaries.size(); ++b) {
    models::Epoch epoch;
    epoch.first_layer = boundaries[b];
    epoch.last_layer = boundaries[b + 1];
    for (const PlannedRows& unit : units_) {
      for (int i = 0; i < unit.count; ++i) {
        const int row_index = unit.batch_first + i;
        const LayerRange& range = batch_.active[size_t(row_index)];
        if (epoch.first_layer < range.enter || epoch.first_layer >= range.leave) continue;
        Row made;
        const Row& row = row_of(unit, i, made);
        const SpecialRow* recipe =
            unit.rows ? nullptr : unit.context->recipe[size_t(unit.first + i)].special.get();
        epoch.rows.push_back(row_index);
        build_runs(unit, i, row, recipe, epoch, false, nullptr, epoch.full.emplace_back());
        if (slides)
          build_runs(unit, i, row, recipe, epoch, true, nullptr, epoch.sliding.emplace_back());
        if (!row.want) continue;
        for (const auto& range : row.want->mass) {
          build_runs(unit, i, row, recipe, epoch, false, &range, epoch.mass_full.emplace_back());
          if (slides)
            build_runs(unit, i, row, recipe, epoch, true, &range,
                       epoch.mass_sliding.emplace_back());
        }
      }
    }
    batch_.epochs.push_back(std::move(epoch));
  }
  return batch_;
}

double Plan::mean_keys() const {
  double keys = 0;
  for (const auto& span : batch_.epochs.front().full) keys += span.keys;
  return batch_.epochs.front().full.empty() ? 0 : keys / double(batch_.epochs.front().full.size());
}

SlotRecipe Plan::recipe_of(const PlannedRows& unit, int i) {
  ContextState& context = *unit.context;
  const Row& row = unit.rows->rows[size_t(unit.first + i)];
  SlotRecipe recipe;
  recipe.position = row.position;
  recipe.segment = row.segment_id;
  SpecialRow special;
  special.in = row.in;
  special.active = row.active;
  special.sees_self = row.sees_self;
  special.classes = classes_of(unit, nullptr);
  // A causal row saw every slot before the query and the fresh rows before it; that is every slot
  // before it only if those fresh rows were all appended.
  special.causal = row.view == kCausalView && row.write.to == Write::kAppend;
  for (int j = 0; special.causal && j < i; ++j)
    special.causal = unit.appended[size_t(j)] == unit.base + j;
  if (special.plain(config_.layers)) {
    recipe.token = row.in.token;
    return recipe;
  }
  const int self = unit.appended[size_t(i)];
  const auto see = [&](int slot, uint8_t softmax_class) {
    auto& seen = special.seen;
    if (softmax_class == 0) softmax_class = context.class_of(slot, self);
    if (slot > self) context.looks_ahead = true;
    if (!seen.empty() && seen.back().first + seen.back().count == slot &&
        seen.back().softmax_class == softmax_class) {
      ++seen.back().count;
    } else {
      seen.push_back({slot, 1, softmax_class});
    }
  };
  bool self_done = false;
  const auto see_fresh = [&](int j, uint8_t softmax_class) {
    if (j == i && (!row.sees_self || self_done)) return;
    if (j == i) self_done = true;
    if (unit.appended[size_t(j)] < 0) {
      context.reproducible = false;  // it saw a row that stays nowhere
    } else {
      see(unit.appended[size_t(j)], softmax_class);
    }
  };
  if (row.view == kCausalView) {
    for (int slot = 0; !special.causal && slot < unit.base; ++slot) see(slot, 0);
    for (int j = 0; !special.causal && j < i; ++j) see_fresh(j, 0);
  } else {
    for (const Segment& segment : unit.rows->views[size_t(row.view)]) {
      if (segment.of == Segment::kSlots) {
        const int end =
            segment.count < 0 ? unit.base : std::min(unit.base, segment.first + segment.count);
        for (int slot = segment.first; slot < end; ++slot) see(slot, segment.softmax_class);
      } else if (segment.of == Segment::kFreshRows) {
        int end =
            segment.count < 0 ? unit.count : std::min(unit.count, segment.first + segment.count);
        if (segment.causal) end = std::min(end, i + 1);
        for (int j = segment.first; j < end; ++j) see_fresh(j, segment.softmax_class);
      } else {
        context.reproducible = false;  // model prefixes are not part of the recipe
      }
    }
  }
  if (row.in.kind == RowInput::kFromRow || row.write.to == Write::kSlot)
    context.reproducible = false;
  if (!all_layers(clamp_layers(row.active, config_.layers), config_.layers))
    context.partial_layers = true;
  recipe.special = std::make_shared<SpecialRow>(std::move(special));
  return recipe;
}

void Plan::commit() {
  for (PlannedRows& unit : units_) {
    ContextState& context = *unit.context;
    context.in_plan = false;
    if (!unit.rows) continue;
    for (int i = 0; i < unit.count; ++i) {
      if (unit.rows->rows[size_t(unit.first + i)].write.to != Write::kAppend) continue;
      SlotRecipe recipe = recipe_of(unit, i);
      if (!context.recipe.empty() && recipe.position.t <= context.recipe.back().position.t) {
        context.monotonic = false;
      }
      context.recipe.push_back(std::move(recipe));
    }
    // Overwrites come last: until here every row saw the old slots.
    for (int i = 0; i < unit.count; ++i) {
      const Row& row = unit.rows->rows[size_t(unit.first + i)];
      if (row.write.to != Write::kSlot) continue;
      const ContextState::Place from = unit.places[size_t(i)], to = context.find(row.write.slot);
      pool_.copy_slot(from.page, from.slot, to.page, to.slot);
      context.recipe[size_t(row.write.slot)] = recipe_of(unit, i);
      context.monotonic = false;
      context.published = std::min(context.published, row.write.slot / tensor::kPageSlots);
    }
  }
  scratch_.clear();
}

void Plan::remove_last(int units) {
  for (; units > 0; --units) {
    PlannedRows& unit = units_.back();
    unit.context->in_plan = false;
    undo(unit);
    rows_ -= unit.count;
    units_.pop_back();
  }
}

}  // namespace tutti::engine
