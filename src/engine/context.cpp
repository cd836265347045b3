#include "engine/context.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"

namespace tutti::engine {

ContextState::Place ContextState::place(PagePool& pool) {
  if (tail_owned && !spans.empty()) {
    PageSpan& tail = spans.back();
    const int next = tail.first + tail.count;
    if (next < tensor::kPageSlots) {
      ++tail.count;
      ++resident;
      return {tail.page.id(), next};
    }
  }
  const PageId page = pool.allocate();
  if (page < 0) return {-1, 0};
  spans.push_back({PageRef::adopt(pool, page), 0, 1});
  tail_owned = true;
  ++resident;
  return {page, 0};
}

void ContextState::drop_pages() {
  spans.clear();
  resident = 0;
  tail_owned = false;
  published = 0;
  loaded = false;
}

int ContextState::rebuild_end(int count) const {
  int end = resident + count;
  for (int slot = resident; slot < end; ++slot) {
    const auto& special = recipe[size_t(slot)].special;
    if (!special || special->causal) continue;
    for (const auto& seen : special->seen) end = std::max(end, seen.first + seen.count);
  }
  return end;
}

bool ContextState::saw_past(int n) const {
  for (int slot = 0; slot < n; ++slot) {
    const auto& special = recipe[size_t(slot)].special;
    if (!special || special->causal) continue;
    for (const auto& seen : special->seen) {
      if (seen.first + seen.count > n) return true;
    }
  }
  return false;
}

void ContextState::truncate_resident(int n) {
  while (resident > n) {
    PageSpan& tail = spans.back();
    const int extra = std::min<int>(resident - n, tail.count);
    if (extra == tail.count) {
      spans.pop_back();
      tail_owned = false;  // the page before is full, or shared, or its slots may be seen by a fork
    } else {
      tail.count = uint8_t(tail.count - extra);
      // Slots past the end may be seen by a fork or the cache: never overwrite them then.
      if (tail.page.shared()) tail_owned = false;
    }
    resident -= extra;
  }
  published = std::min(published, n / tensor::kPageSlots);
}

ContextState::Place ContextState::find(int slot) const {
  for (const PageSpan& span : spans) {
    if (slot < span.count) return {span.page.id(), span.first + slot};
    slot -= span.count;
  }
  return {-1, 0};
}

Context::Context(Engine& engine, std::shared_ptr<Request> request, uint64_t salt)
    : state_(std::make_shared<ContextState>()) {
  state_->engine = &engine;
  state_->request = std::move(request);
  state_->salt = salt;
  engine.register_context(state_);
}

Context::~Context() = default;

int Context::next_position() const {
  int next = 0;
  if (state_->monotonic) return state_->recipe.empty() ? 0 : state_->recipe.back().position.t + 1;
  for (const auto& slot : state_->recipe) next = std::max(next, slot.position.t + 1);
  return next;
}

Context Context::fork() const {
  auto copy = std::make_shared<ContextState>(*state_);
  copy->tail_owned = false;
  copy->in_plan = false;
  copy->pending = 0;
  copy->engine->register_context(copy);
  return Context(std::move(copy));
}

void Context::truncate(int n) {
  if (n < 0 || n > size()) {
    throw Error(ErrorKind::kUsage, "context: cannot truncate " + std::to_string(size()) + " slots to " +
                                       std::to_string(n));
  }
  if (state_->saw_past(n)) lose();
  state_->recipe.resize(size_t(n));
  state_->truncate_resident(std::min(n, state_->resident));
}

void Context::lose() {
  if (state_->resident != size()) {
    throw Error(ErrorKind::kUsage,
                "context: slots that stay saw slots that go, and their pages were taken away; query the Context first");
  }
  state_->reproducible = false;
}

void Context::keep(int base, std::span<const int> kept) {
  ContextState& s = *state_;
  if (base < 0 || base > size()) {
    throw Error(ErrorKind::kUsage, "context: keep from slot " + std::to_string(base) + " of " + std::to_string(size()));
  }
  const int count = size() - base;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i] < 0 || kept[i] >= count || (i > 0 && kept[i] <= kept[i - 1])) {
      throw Error(ErrorKind::kUsage, "context: keep wants ascending rows in [0, " + std::to_string(count) + ")");
    }
  }
  // Where each old slot goes; -1: nowhere.
  std::vector<int> moved(size_t(count), -1);
  for (size_t i = 0; i < kept.size(); ++i) moved[size_t(kept[i])] = base + int(i);

  bool unseen = s.saw_past(base);  // some slot that stays saw one that goes
  std::vector<SlotRecipe> tail;
  for (size_t i = 0; i < kept.size(); ++i) {
    SlotRecipe slot = s.recipe[size_t(base + kept[i])];
    if (slot.special && !slot.special->causal) {
      // Rewrite what it saw in the new numbering; it is plain again when that is all slots before it.
      auto special = std::make_shared<SpecialRow>(*slot.special);
      std::vector<SpecialRow::Seen> seen;
      bool lost = false;
      for (const auto& run : special->seen) {
        for (int x = run.first; x < run.first + run.count; ++x) {
          const int to = x < base ? x : x < base + count ? moved[size_t(x - base)] : -1;
          if (to < 0) {
            lost = true;
          } else if (!seen.empty() && seen.back().first + seen.back().count == to &&
                     seen.back().softmax_class == run.softmax_class) {
            ++seen.back().count;
          } else {
            seen.push_back({to, 1, run.softmax_class});
          }
        }
      }
      if (lost) unseen = true;
      const int self = base + int(i);
      const bool all_before =
          special->sees_self &&
          (self == 0 ? seen.empty()
                     : seen.size() == 1 && seen[0].first == 0 && seen[0].count == self && seen[0].softmax_class == 0);
      special->seen = std::move(seen);
      special->causal = all_before;
      const bool plain = all_before && special->in.kind == RowInput::kToken && special->active.enter == 0 &&
                         special->active.leave >= s.engine->model().config().layers;
      if (plain) slot.token = special->in.token;
      slot.special = plain ? nullptr : std::move(special);
    } else if (slot.special || kept[i] != int(i)) {
      // It saw every slot before it: some of them go now.
      if (kept[i] != int(i)) unseen = true;
    }
    tail.push_back(std::move(slot));
  }

  if (unseen) lose();

  const bool is_prefix = kept.empty() || kept.back() == int(kept.size()) - 1;
  if (!is_prefix && s.resident == size()) {
    PagePool& pool = s.engine->pages();
    bool exclusive = true;
    int at = 0;
    for (const auto& span : s.spans) {
      if (at + span.count > base && span.page.shared()) exclusive = false;
      at += span.count;
    }
    if (exclusive) {
      for (size_t i = 0; i < kept.size(); ++i) {
        if (kept[i] == int(i)) continue;
        const auto from = s.find(base + kept[i]), to = s.find(base + int(i));
        pool.copy_slot(from.page, from.slot, to.page, to.slot);
      }
    } else {
      // Somebody else sees these pages: name the kept slots where they are.
      std::vector<PageSpan> spans;
      for (const int k : kept) {
        int slot = base + k;
        for (const auto& span : s.spans) {
          if (slot < span.count) {
            spans.push_back({span.page, uint8_t(span.first + slot), 1});
            break;
          }
          slot -= span.count;
        }
      }
      s.truncate_resident(base);
      for (auto& span : spans) s.spans.push_back(std::move(span));
      s.resident += int(kept.size());
      s.tail_owned = false;
    }
  }
  s.recipe.resize(size_t(base));
  for (auto& slot : tail) s.recipe.push_back(std::move(slot));
  s.truncate_resident(std::min(size(), s.resident));
  for (int i = std::max(1, base); i < size(); ++i) {
    if (s.recipe[size_t(i)].position.t <= s.recipe[size_t(i) - 1].position.t) s.monotonic = false;
  }
}

void Context::drop(int first, int count) {
  ContextState& s = *state_;
  if (first < 0 || count < 0 || first + count > size()) {
    throw Error(ErrorKind::kUsage, "context: cannot drop slots [" + std::to_string(first) + ", " +
                                       std::to_string(first + count) + ") of " + std::to_string(size()));
  }
  if (count == 0) return;
  if (first + count == size()) return truncate(first);
  s.reproducible = false;  // later slots saw what goes
  if (s.resident != size()) {
    throw Error(ErrorKind::kUsage, "context: drop needs resident pages; query the Context first");
  }
  std::vector<PageSpan> spans;
  int at = 0;
  for (const auto& span : s.spans) {
    const int from = at, to = at + span.count;
    const int left = std::clamp(first - from, 0, int(span.count));
    const int right = std::clamp(to - (first + count), 0, int(span.count));
    if (left > 0) spans.push_back({span.page, span.first, uint8_t(left)});
    if (right > 0) {
      spans.push_back({span.page, uint8_t(span.first + span.count - right), uint8_t(right)});
    }
    at = to;
  }
  s.spans = std::move(spans);
  s.resident -= count;
  s.recipe.erase(s.recipe.begin() + first, s.recipe.begin() + first + count);
  s.published = std::min(s.published, first / tensor::kPageSlots);
}

void Context::concat(const Context& other, int first) {
  ContextState& s = *state_;
  const ContextState& o = other.state();
  if (first < 0 || first > o.size() || first > size()) {
    throw Error(ErrorKind::kUsage, "context: cannot concatenate slots [" + std::to_string(first) + ", " +
                                       std::to_string(o.size()) + ")");
  }
  if (s.resident != s.size() || o.resident != o.size()) {
    throw Error(ErrorKind::kUsage, "context: concat needs resident pages; query both Contexts first");
  }
  const int base = size();
  int at = 0;
  for (const auto& span : o.spans) {
    const int skip = std::clamp(first - at, 0, int(span.count));
    if (skip < span.count) {
      s.spans.push_back({span.page, uint8_t(span.first + skip), uint8_t(span.count - skip)});
      s.resident += span.count - skip;
    }
    at += span.count;
  }
  s.tail_owned = false;
  s.published = std::min(s.published, base / tensor::kPageSlots);
  for (int i = first; i < o.size(); ++i) {
    SlotRecipe slot = o.recipe[size_t(i)];
    if (base != first) {
      auto special = slot.special ? std::make_shared<SpecialRow>(*slot.special) : std::make_shared<SpecialRow>();
      if (!slot.special) special->in.token = slot.token;
      std::vector<SpecialRow::Seen> seen;
      if (special->causal) {
        if (first > 0) seen.push_back({0, first, 0});
        if (i > first) seen.push_back({base, i - first, 0});
        special->causal = false;
      } else {
        for (const auto& run : special->seen) {
          const int below = std::clamp(first - run.first, 0, run.count);
          if (below > 0) seen.push_back({run.first, below, run.softmax_class});
          if (below < run.count) {
            seen.push_back({run.first + below - first + base, run.count - below, run.softmax_class});
          }
        }
      }
      special->seen = std::move(seen);
      slot.special = std::move(special);
    }
    if (!s.recipe.empty() && slot.position.t <= s.recipe.back().position.t) s.monotonic = false;
    s.recipe.push_back(std::move(slot));
  }
  s.reproducible = s.reproducible && o.reproducible;
  s.loaded = s.loaded || o.loaded;
  s.partial_layers = s.partial_layers || o.partial_layers;
}

void Context::release() {
  if (!state_->reproducible) {
    throw Error(ErrorKind::kUsage, "context: its slots cannot be recomputed (overwritten or dropped); destroy it instead");
  }
  state_->drop_pages();
}

}  // namespace tutti::engine
