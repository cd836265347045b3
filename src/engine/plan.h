// One tick's forward being put together: queries' rows become a Batch, with slots claimed for their
// keys and values and Views resolved to runs of slots.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "engine/context.h"
#include "engine/pages.h"
#include "engine/rows.h"
#include "models/batch.h"
#include "models/config.h"

namespace tutti::engine {

// Some rows of one Context that go into this tick: part of a query, or slots recomputed from the
// recipe.
struct PlannedRows {
  ContextState* context = nullptr;
  const Rows* rows = nullptr;  // null: a rebuild of slots [first, first + count) of the recipe
  int first = 0;               // first row of the query's part, or first slot
  int count = 0;
  int base = 0;                             // slots of the Context before this tick
  int batch_first = 0;                      // its first row in the Batch
  std::vector<ContextState::Place> places;  // per row: where its keys and values go
  std::vector<int> appended;                // per row: its slot in the Context, or -1
};

class Plan {
 public:
  Plan(const models::Config& config, PagePool& pool,
       const std::vector<std::shared_ptr<ContextState>>& prefixes)
      : config_(config), pool_(pool), prefixes_(prefixes) {}

  // Claims slots for rows [first, first + count) of `rows`; false when the pool ran out (nothing is
  // kept then).
  bool add(ContextState& context, const Rows& rows, int first, int count);
  // The same for recomputing `count` slots from the recipe, starting at context.resident.
  bool add_rebuild(ContextState& context, int count);

  // Takes the last `units` units back.
  void remove_last(int units);

  bool empty() const { return units_.empty(); }
  int rows() const { return rows_; }
  const std::vector<PlannedRows>& units() const { return units_; }

  // Resolves every View and makes the Batch. Called once, after the last add.
  models::Batch& build();
  models::Batch& batch() { return batch_; }
  double mean_keys() const;

  // After the forward: overwrites the slots of Write::kSlot rows, writes recipes of appended rows,
  // and gives the scratch pages back. Slots appended by unit u before `commit` are already part of
  // its Context.
  void commit();

 private:
  bool claim(PlannedRows& unit);
  bool own_page(ContextState& context, int slot);
  void undo(PlannedRows& unit);
  // How row i of the unit, which is kept, can be recomputed. Notes in the Context when it cannot.
  SlotRecipe recipe_of(const PlannedRows& unit, int i);
  const Row& row_of(const PlannedRows& unit, int i, Row& made) const;
  void build_runs(const PlannedRows& unit, int i, const Row& row, const SpecialRow* recipe,
                  const models::Epoch& epoch, bool sliding, const Want::SlotRange* only,
                  models::RunSpan& span);
  void emit(int page, int slot, uint8_t softmax_class, models::KeyPlace place);

  const models::Config& config_;
  PagePool& pool_;
  const std::vector<std::shared_ptr<ContextState>>& prefixes_;
  std::vector<PlannedRows> units_;
  std::vector<PageSpan> scratch_;
  int rows_ = 0;
  models::Batch batch_;
  size_t span_first_ = 0;  // first run of the span being built: runs merge only within it
};

}  // namespace tutti::engine
