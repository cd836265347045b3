// What a thread of generation may look at: spans of reference-counted KV pages with explicit
// positions, and the recipe that can recompute them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "engine/pages.h"
#include "engine/rows.h"

namespace tutti::engine {

class Engine;
struct Request;

// A row whose recipe is more than "this token, seeing everything before it".
struct SpecialRow {
  struct Seen {
    int first;
    int count;
    uint8_t softmax_class;
  };
  RowInput in;
  LayerRange active;
  bool causal = true;  // saw all earlier slots and itself
  bool sees_self = true;
  std::vector<Seen> seen;  // when not causal: slots of the Context, in View order
  std::vector<tensor::SoftmaxClass> classes;

  // Whether it is "this token, seeing everything before it" after all.
  bool plain(int layers) const;
};

// How one cached slot was made.
struct SlotRecipe {
  int32_t token = -1;  // -1: see special
  Position position;
  int32_t segment = 0;
  std::shared_ptr<const SpecialRow> special;  // null: a plain causal token
};

// Slots [first, first + count) of one page, as consecutive slots of a Context.
struct PageSpan {
  PageRef page;
  uint8_t first = 0;
  uint8_t count = 0;
};

// Slots [first, first + count) that later rows see through a softmax class of the Context.
struct WeighedSlots {
  int first = 0;
  int count = 0;
  uint8_t softmax_class = 0;
};

// The shared state behind a Context handle; the engine may take its pages away and rebuild them.
struct ContextState {
  Engine* engine = nullptr;
  std::shared_ptr<Request> request;  // whose pages these are, for preemption and fairness
  std::vector<PageSpan> spans;       // cover slots [0, resident)
  std::vector<PageRef>
      area;  // settle(): pages that the slots fill in order, before any of the pool's choice
  std::vector<SlotRecipe> recipe;  // all slots
  int resident = 0;                // < recipe.size(): pages were taken away, to be recomputed
  bool tail_owned = false;         // the last page's free slots are ours to fill
  bool reproducible = true;  // the recipe recomputes the same bits; else pages are never taken away
  bool monotonic = true;     // positions strictly ascend with slots
  bool loaded = false;  // its keys and values come from a file: the prefix cache does not take them
  bool partial_layers = false;        // some slot has keys on some layers only
  bool looks_ahead = false;           // some slot saw a later one (a bidirectional block)
  std::vector<WeighedSlots> weighed;  // ascending, apart
  std::vector<tensor::SoftmaxClass>
      classes;        // of `weighed`; class 0 is ordinary. Empty when `weighed` is
  uint64_t salt = 0;  // keeps caches of different tenants or variants apart
  int published = 0;  // leading pages offered to, or taken from, the prefix cache
  bool in_plan = false;
  int pending = 0;    // queries that name this Context and are not answered
  int delivered = 0;  // answered queries whose program has not run since: the pages stay for it

  int size() const { return int(recipe.size()); }
  // The class through which slot `viewer` sees `slot` where its View says class 0.
  uint8_t class_of(int slot, int viewer) const;
  // Room for one more slot: the next of the owned tail page, else a new page. page -1: the pool is
  // empty.
  struct Place {
    PageId page;
    int slot;
  };
  Place place(PagePool& pool);
  void drop_pages();              // resident = 0
  void truncate_resident(int n);  // gives back pages past slot n
  Place find(int slot) const;     // of a resident slot
};

// A handle. Moving is cheap; fork() copies a page table. All calls happen on the engine's thread.
class Context {
 public:
  Context() = default;
  // An empty Context of `request`. Contexts with different `salt` never share cached pages.
  Context(Engine& engine, std::shared_ptr<Request> request, uint64_t salt = 0);
  Context(Context&&) = default;
  Context& operator=(Context&&) = default;
  Context(const Context&) = delete;
  ~Context();

  explicit operator bool() const { return state_ != nullptr; }
  int size() const { return state_->size(); }
  // One past the largest position, or 0.
  int next_position() const;

  // A Context that sees the same slots. Shares every page; the first append of the fork starts a
  // page of its own.
  Context fork() const;
  // What remains keeps its keys and values, also where it saw a slot that goes: such a slot cannot
  // be recomputed, so the three functions below throw Error(kUsage) when it would have to be, that
  // is, when its page was taken away meanwhile. Pages stay at least until the program that got a
  // query's answer waits again; for other Contexts `co_await engine.restore(context)` brings them
  // back.

  // Keeps slots [0, n). Throws Error(kUsage) when n is not in [0, size].
  void truncate(int n);
  // Of the slots [base, size), keeps base + kept[0], base + kept[1], … (strictly ascending) and
  // drops the rest.
  void keep(int base, std::span<const int> kept);
  // Takes slots [first, first + count) out of the Context; positions stay as they are.
  void drop(int first, int count);

  // Appends slots [first, size) of `other` without copying or computing: other must agree with this
  // Context on slots [0, first) (a fork of it). Throws Error(kUsage) when those of `other` cannot
  // be recomputed and pages of this Context were taken away, or when slots of `other` are weighed.
  void concat(const Context& other, int first);
  // Rows that are appended from now on see slots [first, size) through `softmax` wherever their
  // View says class 0, as the causal view does; what is there keeps what it saw. Ordinary attention
  // changes nothing. Queries whose Rows bring classes of their own do not go with it, nor does
  // concat of this Context to another. Throws Error(kUsage) when `first` is not in [0, size], a
  // slot is weighed already, or kMaxSoftmaxClasses - 1 classes are in use.
  void weigh(int first, tensor::SoftmaxClass softmax);

  // Writes the Context as a file (saved_context.h), whole or not at all. Throws Error(kSystem).
  void save(const std::filesystem::path& path) const;
  // A Context that continues as if the saved one had gone on. Throws Error: kNotFound; kBadFile for
  // a file that is no saved Context, damaged or truncated; kUnsupported when another model, KV type
  // or salt made it; kLimit when the pool has no room.
  static Context load(Engine& engine, std::shared_ptr<Request> request,
                      const std::filesystem::path& path, uint64_t salt = 0);

  // From now on slot x lies in page area[x / 32] as long as the area reaches, and what the Context
  // holds is copied there, bit for bit; returns the bytes copied. The caller holds the only
  // reference to each page of `area` and keeps it from others while the Context lives. Pages of an
  // area never reach the prefix cache; a fork, and the Context itself after keep, drop or concat,
  // go on in pages of the pool. Throws Error(kUsage): the area is too small or in use, or pages of
  // the Context were taken away.
  size_t settle(std::vector<PageRef> area);

  // Gives all pages back, an area too; the recipe stays, so that a later query recomputes them.
  // Throws Error(kUsage) when some slot cannot be recomputed.
  void release();

  const ContextState& state() const { return *state_; }
  const std::shared_ptr<ContextState>& shared_state() const { return state_; }

 private:
  explicit Context(std::shared_ptr<ContextState> state) : state_(std::move(state)) {}
  friend class Engine;
  friend class ContextFile;
  std::shared_ptr<ContextState> state_;
};

}  // namespace tutti::engine
