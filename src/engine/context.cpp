#include "engine/context.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"

namespace tutti::engine {

namespace {

// Rewrites what a row saw when slot x becomes to(x), or goes when that is -1. True when it saw one
// that goes.
template <class To>
bool renumber(SpecialRow& row, const To& to) {
  std::vector<SpecialRow::Seen> seen;
  bool lost = false;
  for (const auto& run : row.seen) {
    for (int x = run.first; x < run.first + run.count; ++x) {
      const int now = to(x);
      if (now < 0) {
        lost = true;
      } else if (!seen.empty() && seen.back().first + seen.back().count == now &&
                 seen.back().softmax_class == run.softmax_class) {
        ++seen.back().count;
      } else {
        seen.push_back({now, 1, run.softmax_class});
      }
    }
  }
  row.seen = std::move(seen);
  return lost;
}

// Whether the row, as slot `self`, saw the slots before it and itself, in order and in softmax
// class 0.
bool saw_all_before(const SpecialRow& row, int self) {
  if (!row.sees_self) return false;
  if (row.seen.empty()) return self == 0;
  // Its own keys stand last whether the list names them or not.
  const SpecialRow::Seen& run = row.seen.front();
  return row.seen.size() == 1 && run.first == 0 && run.softmax_class == 0 &&
         (run.count == self || run.count == self + 1);
}

// Gives the slots from `first` on new numbers: slot x becomes to(x), ascending, or goes when that
// is -1. A slot that saw one that goes cannot be recomputed any more. Throws, before anything
// changes, when it would have to be.
template <class To>
void change_numbers(ContextState& s, int first, const char* what, const To& to) {
  const int begin = s.looks_ahead ? 0 : first;
  std::vector<SlotRecipe> tail;
  bool lossy = false, gone = false;
  for (int x = begin; x < s.size(); ++x) {
    const int now = to(x);
    if (now < 0) {
      gone = true;
      continue;
    }
    SlotRecipe slot = s.recipe[size_t(x)];
    bool lost = gone;  // a causal row saw every slot before it
    if (slot.special && !slot.special->causal) {
      auto special = std::make_shared<SpecialRow>(*slot.special);
      lost = renumber(*special, to);
      if (!lost && saw_all_before(*special, now)) special->causal = true;
      slot.special = std::move(special);
      if (slot.special->causal && slot.special->plain(s.engine->model().config().layers)) {
        slot.token = slot.special->in.token;
        slot.special = nullptr;
      }
    }
    if (lost && x >= s.resident) {
      throw Error(ErrorKind::kUsage,
                  std::string("context: ") + what + " leaves slot " + std::to_string(x) +
                      ", which saw one that goes and whose page was taken away; co_await "
                      "Engine::restore before");
    }
    lossy = lossy || lost;
    tail.push_back(std::move(slot));
  }
  if (lossy) s.reproducible = false;
  // Runs before `first` stay as they are: methods truncate and keep at every step.
  for (auto it = s.weighed.begin(); it != s.weighed.end();) {
    if (it->first + it->count <= first) {
      ++it;
      continue;
    }
    WeighedSlots left{0, 0, it->softmax_class};
    for (int x = it->first; x < it->first + it->count; ++x) {
      const int now = to(x);
      if (now >= 0 && left.count++ == 0) left.first = now;
    }
    *it = left;
    it = left.count > 0 ? it + 1 : s.weighed.erase(it);
  }
  s.recipe.resize(size_t(begin));
  std::move(tail.begin(), tail.end(), std::back_inserter(s.recipe));
}

}  // namespace

bool SpecialRow::plain(int layers) const {
  return causal && sees_self && in.kind == RowInput::kToken && active.enter <= 0 &&
         active.leave >= layers && ordinary(classes);
}

uint8_t ContextState::class_of(int slot, int viewer) const {
  for (const WeighedSlots& w : weighed) {
    if (slot >= w.first && slot < w.first + w.count && viewer >= w.first + w.count)
      return w.softmax_class;
  }
  return 0;
}

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
  if (spans.size() < area.size()) {
    spans.push_back({area[spans.size()], 0, 1});
    tail_owned = true;
    ++resident;
    return {spans.back().page.id(), 0};
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

void ContextState::truncate_resident(int n) {
  // Of a page of an area: the span's, the area's and its owner's.
  const int own_references = area.empty() ? 1 : 3;
  while (resident > n) {
    PageSpan& tail = spans.back();
    const int extra = std::min<int>(resident - n, tail.count);
    if (extra == tail.count) {
      spans.pop_back();
      // The page before is full, or shared, or its slots may be seen by a fork.
      tail_owned =
          !area.empty() && !spans.empty() && spans.back().page.references() <= own_references;
    } else {
      tail.count = uint8_t(tail.count - extra);
      // Slots past the end may be seen by a fork or the cache: never overwrite them then.
      if (tail.page.references() > own_references) tail_owned = false;
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
  copy->area.clear();
  copy->tail_owned = false;
  copy->in_plan = false;
  copy->pending = 0;
  copy->delivered = 0;
  copy->engine->register_context(copy);
  return Context(std::move(copy));
}

void Context::truncate(int n) {
  if (n < 0 || n > size()) {
    throw Error(ErrorKind::kUsage, "context: cannot truncate " + std::to_string(size()) +
                                       " slots to " + std::to_string(n));
  }
  ContextState& s = *state_;
  change_numbers(s, n, "truncate", [n](int x) { return x < n ? x : -1; });
  s.truncate_resident(std::min(n, s.resident));
}

void Context::keep(int base, std::span<const int> kept) {
  ContextState& s = *state_;
  if (base < 0 || base > size()) {
    throw Error(ErrorKind::kUsage, "context: keep from slot " + std::to_string(base) + " of " +
                                       std::to_string(size()));
  }
  const int count = size() - base;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i] < 0 || kept[i] >= count || (i > 0 && kept[i] <= kept[i - 1])) {
      throw Error(ErrorKind::kUsage,
                  "context: keep wants ascending rows in [0, " + std::to_string(count) + ")");
    }
  }
  s.area.clear();
  // Where each old slot goes; -1: nowhere.
  std::vector<int> moved(size_t(count), -1);
  for (size_t i = 0; i < kept.size(); ++i) moved[size_t(kept[i])] = base + int(i);
  change_numbers(s, base, "keep", [&](int x) { return x < base ? x : moved[size_t(x - base)]; });

  // The first slot that moves; those before it stay where they are.
  size_t first = 0;
  while (first < kept.size() && kept[first] == int(first)) ++first;
  size_t resident = 0;  // of the kept ones
  while (resident < kept.size() && base + kept[resident] < s.resident) ++resident;
  if (first < resident) {
    PagePool& pool = s.engine->pages();
    bool exclusive = true;
    int at = 0;
    for (const auto& span : s.spans) {
      if (at + span.count > base + int(first) && span.page.shared()) exclusive = false;
      at += span.count;
    }
    if (exclusive) {
      for (size_t i = first; i < resident; ++i) {
        const auto from = s.find(base + kept[i]), to = s.find(base + int(i));
        pool.copy_slot(from.page, from.slot, to.page, to.slot);
      }
    } else {
      // Somebody else sees these pages: name the kept slots where they are.
      std::vector<PageSpan> spans;
      for (size_t i = first; i < resident; ++i) {
        int slot = base + kept[i];
        for (const auto& span : s.spans) {
          if (slot < span.count) {
            spans.push_back({span.page, uint8_t(span.first + slot), 1});
            break;
          }
          slot -= span.count;
        }
      }
      s.truncate_resident(base + int(first));
      for (auto& span : spans) s.spans.push_back(std::move(span));
      s.resident += int(spans.size());
      s.tail_owned = false;
    }
  }
  s.published = std::min(s.published, (base + int(first)) / tensor::kPageSlots);
  s.truncate_resident(std::min(base + int(resident), s.resident));
  for (int i = std::max(1, base); i < size(); ++i) {
    if (s.recipe[size_t(i)].position.t <= s.recipe[size_t(i) - 1].position.t) s.monotonic = false;
  }
}

void Context::drop(int first, int count) {
  ContextState& s = *state_;
  if (first < 0 || count < 0 || first + count > size()) {
    throw Error(ErrorKind::kUsage, "context: cannot drop slots [" + std::to_string(first) + ", " +
                                       std::to_string(first + count) + ") of " +
                                       std::to_string(size()));
  }
  if (count == 0) return;
  if (first + count == size()) return truncate(first);
  s.area.clear();
  change_numbers(s, first, "drop", [&](int x) {
    return x < first ? x : x < first + count ? -1 : x - count;
  });
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
  if (s.resident <= first + count)
    s.tail_owned = false;  // the last page's next slot is none of ours any more
  s.resident -= std::clamp(s.resident - first, 0, count);
  s.published = std::min(s.published, first / tensor::kPageSlots);
}

void Context::concat(const Context& other, int first) {
  ContextState& s = *state_;
  const ContextState& o = other.state();
  if (first < 0 || first > o.size() || first > size()) {
    throw Error(ErrorKind::kUsage, "context: cannot concatenate slots [" + std::to_string(first) +
                                       ", " + std::to_string(o.size()) + ")");
  }
  if (!o.weighed.empty())
    throw Error(ErrorKind::kUsage, "context: concat of a Context with weighed slots");
  s.area.clear();
  const int base = size();
  if (s.resident == base) {
    int at = 0;
    for (const auto& span : o.spans) {
      const int skip = std::clamp(first - at, 0, int(span.count));
      if (skip < span.count) {
        s.spans.push_back({span.page, uint8_t(span.first + skip), uint8_t(span.count - skip)});
        s.resident += span.count - skip;
      }
      at += span.count;
    }
  } else if (!o.reproducible) {
    throw Error(ErrorKind::kUsage,
                "context: concat of slots that cannot be recomputed to a Context whose pages were "
                "taken away; co_await "
                "Engine::restore before");
  }
  s.tail_owned = false;
  s.published = std::min(s.published, base / tensor::kPageSlots);
  for (int i = first; i < o.size(); ++i) {
    SlotRecipe slot = o.recipe[size_t(i)];
    if (base != first) {
      auto special = slot.special ? std::make_shared<SpecialRow>(*slot.special)
                                  : std::make_shared<SpecialRow>();
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
            seen.push_back(
                {run.first + below - first + base, run.count - below, run.softmax_class});
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
  s.looks_ahead = s.looks_ahead || o.looks_ahead;
}

void Context::weigh(int first, tensor::SoftmaxClass softmax) {
  ContextState& s = *state_;
  const int taken = s.weighed.empty() ? 0 : s.weighed.back().first + s.weighed.back().count;
  if (first < taken || first > size()) {
    throw Error(ErrorKind::kUsage, "context: cannot weigh slots [" + std::to_string(first) + ", " +
                                       std::to_string(size()) + "), of which " +
                                       std::to_string(taken) +
                                       " stand before the end of weighed ones");
  }
  if (first == size() || ordinary(softmax)) return;
  if (s.classes.empty()) s.classes.emplace_back();
  const auto known = std::find(s.classes.begin() + 1, s.classes.end(), softmax);
  if (known == s.classes.end() && s.classes.size() == size_t(tensor::kMaxSoftmaxClasses)) {
    throw Error(ErrorKind::kUsage, "context: more than " +
                                       std::to_string(tensor::kMaxSoftmaxClasses - 1) +
                                       " kinds of weighed slots");
  }
  s.weighed.push_back({first, size() - first, uint8_t(known - s.classes.begin())});
  if (known == s.classes.end()) s.classes.push_back(softmax);
  s.published = std::min(s.published, first / tensor::kPageSlots);
}

size_t Context::settle(std::vector<PageRef> area) {
  ContextState& s = *state_;
  PagePool& pool = s.engine->pages();
  if (s.resident != size()) {
    throw Error(ErrorKind::kUsage,
                "context: its pages were taken away; co_await Engine::restore before it settles");
  }
  if (area.size() * size_t(tensor::kPageSlots) < size_t(size())) {
    throw Error(ErrorKind::kUsage, "context: " + std::to_string(size()) +
                                       " slots do not fit an area of " +
                                       std::to_string(area.size()) + " pages");
  }
  for (const PageRef& page : area) {
    // The caller's reference and the one in `area`.
    if (pool.references(page.id()) > 2) {
      throw Error(ErrorKind::kUsage,
                  "context: page " + std::to_string(page.id()) + " of the area is in use");
    }
  }
  size_t bytes = 0;
  std::vector<PageSpan> spans;
  for (int first = 0; first < size(); first += tensor::kPageSlots) {
    const int count = std::min(tensor::kPageSlots, size() - first);
    const PageId to = area[size_t(first / tensor::kPageSlots)].id();
    const ContextState::Place from = s.find(first), last = s.find(first + count - 1);
    const bool whole = from.slot == 0 && from.page == last.page && last.slot == count - 1;
    if (whole) {
      pool.copy_page(from.page, to);
      bytes += pool.layout().page_bytes();
    }
    for (int x = 0; !whole && x < count; ++x) {
      const ContextState::Place slot = s.find(first + x);
      pool.copy_slot(slot.page, slot.slot, to, x);
      bytes += pool.layout().page_bytes() / tensor::kPageSlots;
    }
    spans.push_back({area[size_t(first / tensor::kPageSlots)], 0, uint8_t(count)});
  }
  s.spans = std::move(spans);
  s.area = std::move(area);
  s.tail_owned = true;
  s.published = 0;
  return bytes;
}

void Context::release() {
  if (!state_->reproducible) {
    throw Error(
        ErrorKind::kUsage,
        "context: its slots cannot be recomputed (overwritten or dropped); destroy it instead");
  }
  state_->drop_pages();
  state_->area.clear();
}

}  // namespace tutti::engine
