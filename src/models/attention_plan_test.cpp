// A plan gives each query head to somebody once, and a shared head's keys and dimensions likewise;
// and a forward's bits depend neither on the number of workers nor on what they share.
#include "models/attention_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "base/draws.h"
#include "models/crafted_checkpoint.h"
#include "models/model.h"
#include "models/row_ops.h"

namespace tutti::models {
namespace {

using tensor::KvType;

struct Shape {
  const char* architecture;
  int heads, kv_heads, head_dim;
};

// Rows of a model of two layers, each over its own random slots; pages are filled at random.
class Forward {
 public:
  Forward(const Shape& shape, KvType type, uint64_t seed)
      : draws_(seed), model_(make_model(shape)), type_(type) {
    batch_.epochs.resize(1);
    epoch().last_layer = model_->config().layers;
    batch_.classes[1] = {1.5f, 0.7f};
  }

  // A row that sees `keys` slots, on layers that slide the last `window` of them; in runs with
  // holes between them, or on whole pages. `like` >= 0: the slots of that row before its own.
  void add_row(int keys, int window, bool holes, int like = -1) {
    const int row = batch_.rows();
    const int first = int(batch_.runs.size());
    int seen = 0;
    if (like >= 0) {
      const RunSpan& span = epoch().full[size_t(like)];
      for (int i = 0; i < span.count; ++i)
        batch_.runs.push_back(batch_.runs[size_t(span.first + i)]);
      seen = span.keys;
    }
    while (seen < keys) {
      const int count = std::min(keys - seen, holes ? 1 + draws_.below(32) : 32);
      const int at = holes ? draws_.below(33 - count) : 0;
      batch_.runs.push_back(
          {pages_++, uint8_t(at), uint8_t(count), uint8_t(holes && draws_.chance(0.2))});
      seen += count;
    }
    batch_.runs.push_back({pages_, 0, 1, 0});
    batch_.slots.push_back({pages_++, 0});
    const int count = int(batch_.runs.size()) - first;
    epoch().full.push_back({first, count, seen + 1, 0});
    batch_.inputs.emplace_back().token = row;
    batch_.positions.emplace_back(seen);
    batch_.segments.push_back(0);
    batch_.active.emplace_back();
    batch_.head_rows.push_back(row);
    epoch().rows.push_back(row);
    if (model_->config().sliding.empty()) return;
    int inside = 0, from = first + count;
    while (from > first && inside < window) inside += batch_.runs[size_t(--from)].count;
    epoch().sliding.push_back({int(batch_.runs.size()), first + count - from, 0, 0});
    for (int r = from; r < first + count; ++r) batch_.runs.push_back(batch_.runs[size_t(r)]);
    auto& span = epoch().sliding.back();
    auto& cut = batch_.runs[size_t(span.first)];
    const int outside = std::max(0, inside - window);
    cut.first = uint8_t(cut.first + outside);
    cut.count = uint8_t(cut.count - outside);
    span.keys = inside - outside;
  }

  // Logits of all rows on `threads` workers.
  std::vector<float> logits(int threads) {
    if (memory_.empty()) fill();
    auto memory = memory_;
    std::vector<std::byte*> pages;
    for (auto& page : memory) pages.push_back(page.data());
    const size_t vocab = size_t(model_->config().vocab);
    std::vector<float> r(size_t(batch_.rows()) * vocab);
    ComputePool pool(threads);
    RowWorkspace space;
    model_->forward(pool, batch_, {model_->kv_layout(type_), pages.data()}, space,
                    [&](int, int index, std::span<float> row) {
                      std::ranges::copy(row, r.begin() + ptrdiff_t(size_t(index) * vocab));
                    });
    return r;
  }

  AttentionPlan plan(bool sliding, int workers) {
    const auto& spans = sliding ? epoch().sliding : epoch().full;
    return plan_attention(model_->config(), batch_, epoch(), spans, workers);
  }
  const Config& config() const { return model_->config(); }
  const Batch& batch() const { return batch_; }
  Epoch& epoch() { return batch_.epochs[0]; }

 private:
  static std::unique_ptr<Model> make_model(const Shape& shape) {
    DraftShape d;
    d.heads = shape.heads;
    d.kv_heads = shape.kv_heads;
    d.head_dim = shape.head_dim;
    Draft file = draft(shape.architecture, d);
    if (std::string(shape.architecture) == "gemma3") {
      file.keys["gemma3.attention.sliding_window"] = formats::GgufValue::u32(512);
      file.keys["gemma3.attention.sliding_window_pattern"] = formats::GgufValue::u32(2);
    }
    ComputePool pool(1);
    return std::make_unique<Model>(std::make_shared<const Checkpoint>(file.load()),
                                   tensor::Arithmetic::kExactF32, pool);
  }

  void fill() {
    const auto layout = model_->kv_layout(type_);
    const size_t width = size_t(layout.heads * layout.head_dim);
    std::vector<float> k(width), v(width);
    memory_.resize(size_t(pages_));
    for (auto& page : memory_) {
      page.resize(layout.page_bytes());
      for (int layer = 0; layer < layout.layers; ++layer) {
        for (int slot = 0; slot < tensor::kPageSlots; ++slot) {
          for (float& x : k) x = draws_.uniform(-1, 1);
          for (float& x : v) x = draws_.uniform(-1, 1);
          tensor::kernels().store_kv(layout, layer, k.data(), v.data(), page.data(), slot);
        }
      }
    }
  }

  Draws draws_;
  std::unique_ptr<Model> model_;
  KvType type_;
  Batch batch_;
  int pages_ = 0;
  std::vector<std::vector<std::byte>> memory_;
};

constexpr Shape kShapes[] = {{"llama", 9, 3, 64}, {"gemma3", 4, 1, 256}, {"qwen3", 5, 5, 80}};

// Every query head of every row is somebody's, once, whole or in parts that cover it.
void expect_cover(Forward& f, const AttentionPlan& plan, std::span<const RunSpan> spans) {
  const int per_kv_head = f.config().heads / f.config().kv_heads;
  std::set<std::pair<int, int>> seen;  // (row, query head)
  for (const auto& share : plan.shares) {
    EXPECT_LE(share.parts.size(), 2u);
    for (const auto& own : share.heads) {
      const RowGroup& g = plan.groups[size_t(own.group)];
      for (int row = g.first; row < g.first + g.count; ++row) {
        for (int h = own.first; h < own.last; ++h) EXPECT_TRUE(seen.insert({row, h}).second);
      }
    }
  }
  for (size_t s = 0; s < plan.shared.size(); ++s) {
    const auto& head = plan.shared[s];
    const RunSpan& span = spans[size_t(head.row)];
    for (int h = 0; h < per_kv_head; ++h) {
      EXPECT_TRUE(seen.insert({head.row, head.kv_head * per_kv_head + h}).second);
    }
    int run = 0, key = 0, dim = 0;
    for (int w = head.first_worker; w < head.last_worker; ++w) {
      const auto& parts = plan.shares[size_t(w)].parts;
      const auto part = std::ranges::find(parts, int(s), &AttentionPlan::Part::head);
      ASSERT_NE(part, parts.end());
      EXPECT_EQ(part->first_run, run);
      EXPECT_EQ(part->first_key, key);
      EXPECT_EQ(part->first_dim, dim);
      EXPECT_EQ(part->last_dim % 16, 0);
      for (; run < part->last_run; ++run) key += f.batch().runs[size_t(span.first + run)].count;
      dim = part->last_dim;
    }
    EXPECT_EQ(run, span.count);
    EXPECT_EQ(key, span.keys);
    EXPECT_EQ(dim, f.config().head_dim);
  }
  EXPECT_EQ(seen.size(), size_t(f.batch().rows()) * size_t(f.config().heads));
}

TEST(AttentionPlan, CoversEveryHeadOnceAndItsBitsAreThoseOfOneWorker) {
  std::map<int, size_t> shared;  // by number of workers
  for (const Shape& shape : kShapes) {
    for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kI8}) {
      for (const int rows : {1, 3, 5}) {
        Forward f(shape, type, uint64_t(rows) * 10 + uint64_t(type));
        for (int r = 0; r < rows; ++r) {
          f.add_row(r % 2 ? 517 : 700 - 90 * r, 300, r % 3 != 1, rows == 5 && r == 4 ? 3 : -1);
        }
        const auto alone = f.logits(1);
        for (const int workers : {2, 3, 4}) {
          const auto full = f.plan(false, workers);
          expect_cover(f, full, f.epoch().full);
          shared[workers] += full.shared.size();
          if (!f.config().sliding.empty()) {
            expect_cover(f, f.plan(true, workers), f.epoch().sliding);
          }
          EXPECT_TRUE(std::ranges::equal(f.logits(workers), alone))
              << shape.architecture << ", " << rows << " rows, " << workers << " workers";
        }
      }
    }
  }
  for (const int workers : {2, 3, 4}) EXPECT_GT(shared[workers], 0u) << workers << " workers";
}

TEST(AttentionPlan, SharesWhatDoesNotDivideOnly) {
  Forward one({"llama", 9, 3, 64}, KvType::kF16, 1), even({"llama", 8, 4, 64}, KvType::kF16, 1),
      shallow({"llama", 9, 3, 64}, KvType::kF16, 1);
  one.add_row(2047, 0, false);
  even.add_row(2047, 0, false);
  shallow.add_row(63, 0, false);
  EXPECT_TRUE(one.plan(false, 1).shared.empty());
  EXPECT_TRUE(even.plan(false, 2).shared.empty());
  EXPECT_TRUE(shallow.plan(false, 2).shared.empty());
  const auto plan = one.plan(false, 2);
  ASSERT_EQ(plan.shared.size(), 1u);
  EXPECT_EQ(plan.shared[0].kv_head, 1);
  for (const auto& share : plan.shares) {
    ASSERT_EQ(share.parts.size(), 1u);
    EXPECT_EQ(share.parts[0].last_dim - share.parts[0].first_dim, 32);
    ASSERT_EQ(share.heads.size(), 1u);
    EXPECT_EQ(share.heads[0].last - share.heads[0].first, 3);
  }
}

}  // namespace
}  // namespace tutti::models
