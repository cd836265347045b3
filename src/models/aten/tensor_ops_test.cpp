// The network over RowOps and over TensorOps: the same Batches give the same numbers, each
// quantised operation is what its definition says, and gradients are those of finite differences.
#include "models/aten/tensor_ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <set>

#include "base/draws.h"
#include "base/half.h"
#include "models/crafted_checkpoint.h"
#include "models/model.h"
#include "models/transformer.h"

namespace tutti::models {
namespace {

using tensor::Type;

// One model in every form that the tests want.
struct Network {
  std::string name;
  std::shared_ptr<const Checkpoint> checkpoint;
  Config config;
  StoredWeights stored;
  RowWeights rows;

  TensorWeights tensors(at::ScalarType dtype) const {
    TensorWeights w = tensor_weights(*checkpoint, dtype);
    for (size_t l = 0; l < rows.layers.size(); ++l) {
      if (!rows.layers[l].segments.empty()) {
        w.layers[l].segments = at::tensor(rows.layers[l].segments).to(dtype);
      }
    }
    return w;
  }
};

RowWeights pack(const StoredWeights& stored, tensor::Arithmetic arithmetic) {
  RowWeights weights = convert_weights<RowWeights>(
      stored,
      [&](const StoredTensor& t) {
        return t.empty() ? tensor::Matrix()
                         : tensor::Matrix::pack(t.type, t.data, t.rows, t.cols, arithmetic);
      },
      [](const StoredTensor& t) { return t.floats(); });
  for (size_t l = 0; l < stored.layers.size(); ++l) {  // routers compute in fp32, as Model has them
    const StoredTensor& r = stored.layers[l].router;
    if (!r.empty()) {
      weights.layers[l].router =
          tensor::Matrix::pack(r.type, r.data, r.rows, r.cols, tensor::Arithmetic::kExactF32);
    }
  }
  return weights;
}

Network network(const std::string& name, const Draft& draft,
                tensor::Arithmetic arithmetic = tensor::Arithmetic::kExactF32) {
  Network n;
  n.name = name;
  n.checkpoint = std::make_shared<Checkpoint>(draft.load());
  n.config = n.checkpoint->config();
  n.stored = n.checkpoint->weights();
  n.rows = pack(n.stored, arithmetic);
  return n;
}

// Enough for groups.
DraftShape eight_experts(DraftShape shape) {
  shape.experts = 8;
  shape.experts_used = 3;
  return shape;
}

// Every part that the family's members have, in some combination of theirs.
std::vector<Network> all_networks(int layers) {
  DraftShape shape;
  shape.layers = layers;
  std::vector<Network> networks;
  networks.push_back(network("llama", draft("llama", shape)));
  networks.push_back(network("biases (qwen2)", draft("qwen2", shape)));
  networks.push_back(network("q/k norms (qwen3)", draft("qwen3", shape)));
  Draft gemma2 = draft("gemma2", shape);
  gemma2.keys["gemma2.attention.sliding_window"] = formats::GgufValue::u32(9);
  gemma2.keys["gemma2.attn_logit_softcapping"] = formats::GgufValue::f32(2);
  gemma2.keys["gemma2.final_logit_softcapping"] = formats::GgufValue::f32(5);
  networks.push_back(network("soft caps, windows (gemma2)", gemma2));
  Draft gemma3 = draft("gemma3", shape);
  gemma3.keys["gemma3.attention.sliding_window"] = formats::GgufValue::u32(7);
  gemma3.keys["gemma3.attention.sliding_window_pattern"] = formats::GgufValue::u32(3);
  gemma3.keys["gemma3.rope.freq_base"] = formats::GgufValue::f32(1e6f);
  networks.push_back(network("windows, post norms (gemma3)", gemma3));
  networks.push_back(network("experts (mixtral)", mixtral_draft(shape)));
  networks.push_back(network("experts (qwen3moe)", draft("qwen3moe", shape)));
  networks.push_back(network("shared expert (qwen2moe)", draft("qwen2moe", shape)));
  networks.push_back(network("experts (llada-moe)", draft("llada-moe", shape)));
  networks.push_back(network("sigmoid router, bias, groups (llada2-moe)",
                             draft("llada2-moe", eight_experts(shape))));
  Network weighed = network("router bias that weighs", draft("llada2-moe", eight_experts(shape)));
  weighed.config.experts.bias_weighs = true;
  weighed.config.experts.score = Experts::Score::kSoftmax;
  networks.push_back(std::move(weighed));
  Draft unscaled = draft("llama", shape);
  unscaled.keys["llama.rope.dimension_count"] = formats::GgufValue::u32(16);
  Network odd = network("segments, axes, half rotation, gelu", unscaled);
  odd.config.activation = tensor::Activation::kGelu;
  odd.config.rope.magnitude = 1.25f;
  for (int pair = 0; pair < 8; ++pair) odd.config.rope.axis.push_back(uint8_t(pair % 3));
  Draws draws(5);
  for (auto& layer : odd.rows.layers) {
    for (int i = 0; i < 3 * odd.config.head_dim; ++i) {
      layer.segments.push_back(draws.uniform(-1, 1));
    }
  }
  networks.push_back(std::move(odd));
  Network one_head = network("one KV head, relu, pure experts",
                             mixtral_draft(
                                 [] {
                                   DraftShape s;
                                   s.layers = 3, s.heads = 3, s.kv_heads = 1, s.head_dim = 48;
                                   return s;
                                 }(),
                                 0));
  one_head.config.activation = tensor::Activation::kRelu;
  one_head.config.experts.scale = 1.5f;
  networks.push_back(std::move(one_head));
  return networks;
}

// A page pool and a history of cached slots. next() makes a random Batch over them: some queries,
// each of a shape that a method has, each row seeing a list of old slots and of rows of its own
// query.
class Scene {
 public:
  Scene(const Config& config, uint64_t seed, int pages = 6)
      : c_(config), draws_(seed), pages_(pages) {
    for (int i = 0; i < pages * tensor::kPageSlots; ++i) free_.push_back(i);
    draws_.shuffle(free_);
    std::vector<float> weight(size_t(c_.hidden * c_.hidden)), bias(size_t(c_.hidden));
    for (float& x : weight) x = draws_.uniform(-0.2f, 0.2f);
    for (float& x : bias) x = draws_.uniform(-0.2f, 0.2f);
    maps_ = {nullptr, LinearMap::make(c_.hidden, weight, {}),
             LinearMap::make(c_.hidden, weight, bias)};
  }

  int pages() const { return pages_; }
  const std::shared_ptr<const LinearMap>& map() const { return maps_[2]; }

  Batch next(int queries) {
    batch_ = Batch();
    sees_.clear();
    scratch_.clear();
    std::vector<Key> written;
    std::vector<Key> overwritten;  // old slots that rows of this batch replace: nobody sees the old
    for (int i = draws_.below(3); i > 0 && cached_.size() > 4; --i) {
      const size_t at = size_t(draws_.below(int(cached_.size())));
      overwritten.push_back(cached_[at]);
      cached_.erase(cached_.begin() + std::ptrdiff_t(at));
    }
    many_classes_ = draws_.chance(0.5);
    const bool own_classes = draws_.chance(0.5);
    const auto classes = [&](tensor::SoftmaxClass* out) {
      for (int c = 0; c < tensor::kMaxSoftmaxClasses; ++c) {
        out[c] = {draws_.uniform(0.5f, 2.0f), draws_.uniform(0.5f, 1.5f)};
      }
    };
    if (many_classes_ && !own_classes) classes(batch_.classes);
    for (int q = 0; q < queries; ++q) query();
    for (int r = 0; r < batch_.rows(); ++r) {
      Key key{take_slot(), batch_.positions[size_t(r)], batch_.active[size_t(r)], -1, 0};
      if (!overwritten.empty() && draws_.chance(0.2)) {
        free_.push_back(key.slot);
        key.slot = overwritten.back().slot;
        overwritten.pop_back();
      }
      batch_.slots.push_back({key.slot / tensor::kPageSlots, key.slot % tensor::kPageSlots});
      if (draws_.chance(0.75)) {
        written.push_back(key);
      } else {
        scratch_.push_back(key.slot);
      }
      if (many_classes_ && own_classes) {
        batch_.row_classes.emplace_back(size_t(draws_.below(5)));
        tensor::SoftmaxClass table[tensor::kMaxSoftmaxClasses];
        classes(table);
        std::copy_n(table, batch_.row_classes.back().size(), batch_.row_classes.back().begin());
      }
    }
    resolve();
    wants();
    for (const Key& key : written) cached_.push_back(key);
    for (const Key& key : overwritten) free_.push_back(key.slot);
    for (const int slot : scratch_) free_.push_back(slot);
    while (cached_.size() > size_t(pages_ * tensor::kPageSlots) / 2) {
      free_.push_back(cached_.front().slot);
      cached_.erase(cached_.begin());
    }
    draws_.shuffle(free_);
    return std::move(batch_);
  }

 private:
  struct Key {
    int slot;
    Position position;
    LayerRange range;
    int row;  // of the batch, or -1: an old slot
    uint8_t softmax_class;
  };

  int take_slot() {
    const int slot = free_.back();
    free_.pop_back();
    return slot;
  }

  uint8_t some_class() {
    return many_classes_ ? uint8_t(draws_.below(tensor::kMaxSoftmaxClasses)) : 0;
  }

  RowInput some_input(int first_row, int rows_before, LayerRange& range) {
    RowInput in;
    const int kind = draws_.below(100);
    if (kind < 15 && rows_before > 0) {
      in.kind = RowInput::kFromRow;
      in.row = first_row + draws_.below(rows_before);
      in.map = maps_[size_t(draws_.below(3))];
      const LayerRange& source = batch_.active[size_t(in.row)];
      range.enter = std::max(range.enter, source.enter);
      range.leave = std::max(range.leave, range.enter);
    } else if (kind < 30) {
      in.kind = RowInput::kVector;
      for (int i = 0; i < c_.hidden; ++i) in.vector.push_back(draws_.uniform(-2, 2));
    } else if (kind < 45) {
      in.kind = RowInput::kMix;
      for (int n = 1 + draws_.below(4); n > 0; --n) {
        in.ids.push_back(draws_.below(c_.vocab));
        in.weights.push_back(draws_.uniform(0.1f, 1));
      }
    } else {
      in.token = draws_.below(c_.vocab);
    }
    return in;
  }

  void query() {
    enum Shape { kCausal, kTree, kBlock, kAnyOrder, kBlind, kScattered, kShapes };
    const Shape shape = Shape(draws_.below(kShapes));
    const int first = batch_.rows(), count = 1 + draws_.below(shape == kCausal ? 14 : 7);
    // The Context: an ordered choice of old slots.
    std::vector<Key> context;
    const int from = draws_.below(int(cached_.size()) + 1);
    for (size_t i = size_t(from); i < cached_.size() && context.size() < 40; ++i) {
      if (shape != kScattered || draws_.chance(0.5)) context.push_back(cached_[i]);
    }
    std::vector<int> parent, rank(static_cast<size_t>(count));
    std::iota(rank.begin(), rank.end(), 0);
    draws_.shuffle(rank);
    for (int i = 0; i < count; ++i) {
      LayerRange range;
      if (draws_.chance(0.3)) {
        range.enter = draws_.below(c_.layers + 1);
        range.leave = range.enter + draws_.below(c_.layers + 1 - range.enter);
        if (draws_.chance(0.5)) range.leave = c_.layers;
      }
      range.leave = std::min(range.leave, c_.layers);
      batch_.inputs.push_back(some_input(first, i, range));
      batch_.active.push_back(range);
      batch_.positions.push_back(Position(int(context.size()) + draws_.below(count + 3),
                                          draws_.below(9), draws_.below(9)));
      batch_.segments.push_back(draws_.below(5));
      parent.push_back(draws_.below(i + 1) - 1);
    }
    for (int i = 0; i < count; ++i) {
      std::vector<int> fresh;
      bool sees_self = true, sees_context = true;
      switch (shape) {
        case kCausal:
          for (int j = 0; j <= i; ++j) fresh.push_back(j);
          break;
        case kTree:
          for (int up = i; up >= 0; up = parent[size_t(up)]) fresh.insert(fresh.begin(), up);
          break;
        case kBlock:
          for (int j = 0; j < count; ++j) fresh.push_back(j);
          break;
        case kAnyOrder:  // the query rows of permutation models see earlier ranks, never themselves
          sees_self = draws_.chance(0.5);
          for (int j = 0; j < count; ++j) {
            if (rank[size_t(j)] < rank[size_t(i)]) fresh.push_back(j);
          }
          if (sees_self) fresh.push_back(i);
          break;
        case kBlind:
          sees_context = draws_.chance(0.3);
          if (draws_.chance(0.3)) fresh.push_back(i);
          break;
        default:
          for (int j = 0; j < count; ++j) {
            if (draws_.chance(0.4)) fresh.push_back(j);
          }
          draws_.shuffle(fresh);
      }
      std::vector<Key> keys;
      uint8_t softmax_class = some_class();
      if (sees_context) {
        for (Key key : context) {
          if (draws_.chance(0.1)) softmax_class = some_class();
          if (shape == kScattered && draws_.chance(0.2)) continue;
          key.softmax_class = softmax_class;
          keys.push_back(key);
          if (draws_.chance(0.02)) keys.push_back(key);  // named twice, weighs twice
        }
      }
      for (const int j : fresh) {
        const size_t row = size_t(first + j);
        keys.push_back({-1, batch_.positions[row], batch_.active[row], first + j, some_class()});
      }
      if (shape == kScattered) draws_.shuffle(keys);
      sees_.push_back(std::move(keys));
    }
  }

  RunSpan runs(const std::vector<Key>& keys, int layer, int lowest) {
    RunSpan span;
    span.first = int(batch_.runs.size());
    for (const Key& key : keys) {
      if (layer < key.range.enter || layer >= key.range.leave || key.position.t < lowest) continue;
      const Batch::Slot at =
          key.row < 0 ? Batch::Slot{key.slot / tensor::kPageSlots, key.slot % tensor::kPageSlots}
                      : batch_.slots[size_t(key.row)];
      ++span.keys;
      if (int(batch_.runs.size()) > span.first) {
        tensor::KvRun& last = batch_.runs.back();
        if (last.page == at.page && last.first + last.count == at.slot &&
            last.softmax_class == key.softmax_class) {
          ++last.count;
          continue;
        }
      }
      batch_.runs.push_back({at.page, uint8_t(at.slot), 1, key.softmax_class});
    }
    span.count = int(batch_.runs.size()) - span.first;
    return span;
  }

  void resolve() {
    std::set<int> borders{0, c_.layers};
    for (const LayerRange& range : batch_.active) borders.insert({range.enter, range.leave});
    for (const Key& key : cached_) borders.insert({key.range.enter, key.range.leave});
    for (auto border = borders.begin(); std::next(border) != borders.end(); ++border) {
      Epoch epoch;
      epoch.first_layer = *border;
      epoch.last_layer = *std::next(border);
      for (int r = 0; r < batch_.rows(); ++r) {
        const LayerRange& range = batch_.active[size_t(r)];
        if (*border < range.enter || *border >= range.leave) continue;
        epoch.rows.push_back(r);
        epoch.full.push_back(runs(sees_[size_t(r)], *border, INT32_MIN));
        if (!c_.sliding.empty()) {
          epoch.sliding.push_back(
              runs(sees_[size_t(r)], *border, batch_.positions[size_t(r)].t - c_.window + 1));
        }
      }
      batch_.epochs.push_back(std::move(epoch));
    }
  }

  void wants() {
    for (int r = 0; r < batch_.rows(); ++r) {
      if (draws_.chance(0.8)) batch_.head_rows.push_back(r);
      if (draws_.chance(0.7)) continue;
      const bool copies = batch_.inputs[size_t(r)].kind == RowInput::kFromRow;
      const int from = copies ? batch_.active[size_t(r)].enter : 0;
      batch_.hidden.push_back({r, from + draws_.below(c_.layers + 1 - from), nullptr});
    }
    draws_.shuffle(batch_.head_rows);
  }

  const Config& c_;
  Draws draws_;
  int pages_;
  std::vector<int> free_;  // slot numbers, page * 32 + slot
  std::vector<Key> cached_;
  std::vector<std::shared_ptr<const LinearMap>> maps_;
  Batch batch_;
  std::vector<std::vector<Key>> sees_;
  std::vector<int> scratch_;
  bool many_classes_ = false;
};

struct Pages {
  tensor::KvLayout layout;
  std::vector<tensor::AlignedBytes> memory;
  std::vector<std::byte*> pointers;

  Pages(const Config& c, int count)
      : layout{tensor::KvType::kF32, c.layers, c.kv_heads, c.head_dim} {
    for (int i = 0; i < count; ++i)
      pointers.push_back(memory.emplace_back(layout.page_bytes()).data());
  }
  KvMemory kv() const { return {layout, pointers.data()}; }
};

struct Outcome {
  std::vector<std::vector<float>> logits, hidden;
  bool operator==(const Outcome&) const = default;
};

// Makes room for what the batch wants. The batch holds pointers into the outcome then.
Outcome outcome_of(const Config& c, Batch& batch) {
  Outcome out;
  out.logits.resize(batch.head_rows.size());
  out.hidden.assign(batch.hidden.size(), std::vector<float>(size_t(c.hidden)));
  for (size_t i = 0; i < batch.hidden.size(); ++i) batch.hidden[i].out = out.hidden[i].data();
  return out;
}

// RowOps by hand: `run` is what every worker does with its RowOps::Shared.
Outcome over_rows(const Network& n, Batch& batch, const KvMemory& kv, ComputePool& pool,
                  const tensor::Kernels& kernels,
                  const std::function<void(const RowOps::Shared&, Worker&)>& run) {
  Outcome out = outcome_of(n.config, batch);
  RowWorkspace space;
  space.prepare(n.config, batch, pool.threads());
  const LogitsConsumer consume = [&](int, int index, std::span<float> logits) {
    out.logits[size_t(index)].assign(logits.begin(), logits.end());
  };
  const RowOps::Shared shared{kernels, n.config, batch, kv, n.stored.embedding, consume, space};
  pool.run([&](Worker& worker) { run(shared, worker); });
  return out;
}

Outcome row_forward(const Network& n, Batch& batch, const KvMemory& kv, ComputePool& pool,
                    const tensor::Kernels& kernels = tensor::kernels()) {
  return over_rows(n, batch, kv, pool, kernels, [&](const RowOps::Shared& shared, Worker& worker) {
    RowOps ops(shared, worker);
    forward(ops, n.config, n.rows);
  });
}

std::vector<float> floats(const at::Tensor& t) {
  const at::Tensor f = t.detach().to(at::kFloat).contiguous();
  return {f.data_ptr<float>(), f.data_ptr<float>() + f.numel()};
}

Outcome outcome(const TensorAnswer& answer) {
  Outcome out;
  for (int64_t i = 0; answer.logits.defined() && i < answer.logits.size(0); ++i) {
    out.logits.push_back(floats(answer.logits[i]));
  }
  for (const auto& h : answer.hidden) out.hidden.push_back(floats(h));
  return out;
}

// The largest difference of two rows of numbers, relative to the largest number of the row.
double distance(const std::vector<std::vector<float>>& a,
                const std::vector<std::vector<float>>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    EXPECT_EQ(a[i].size(), b[i].size());
    double largest = 0, difference = 0;
    for (size_t j = 0; j < std::min(a[i].size(), b[i].size()); ++j) {
      largest = std::max(largest, std::abs(double(b[i][j])));
      difference = std::max(difference, std::abs(double(a[i][j]) - double(b[i][j])));
      if (!std::isfinite(a[i][j]) || !std::isfinite(b[i][j])) return INFINITY;
    }
    if (largest > 0) worst = std::max(worst, difference / largest);
  }
  return worst;
}

constexpr double kEqual = 2e-5;

// Our pool and ATen's own threads never compute together.
const bool kOneAtenThread = [] {
  at::set_num_threads(1);
  return true;
}();

TEST(Forward, RowOpsEqualsTensorOpsOnRandomBatches) {
  ComputePool pool(2);
  double worst = 0;
  for (const Network& n : all_networks(4)) {
    const TensorWeights in_float = n.tensors(at::kFloat), in_double = n.tensors(at::kDouble);
    Scene scene(n.config, 11);
    Pages pages(n.config, scene.pages());
    TensorKv float_kv(n.config, scene.pages()), double_kv(n.config, scene.pages(), at::kDouble);
    int rows = 0;
    for (int step = 0; step < 7; ++step) {
      Batch batch =
          scene.next(step == 6 ? 14 : 4);  // the last has more head rows than one pass of the head
      rows += batch.rows();
      const Outcome got = row_forward(n, batch, pages.kv(), pool);
      const Outcome as_float = outcome(tensor_forward(n.config, in_float, batch, float_kv));
      const Outcome as_double = outcome(tensor_forward(n.config, in_double, batch, double_kv));
      for (const Outcome* expected : {&as_float, &as_double}) {
        const double logits = distance(got.logits, expected->logits);
        const double hidden = distance(got.hidden, expected->hidden);
        ASSERT_LE(logits, kEqual) << n.name << ", batch " << step;
        ASSERT_LE(hidden, kEqual) << n.name << ", batch " << step;
        worst = std::max({worst, logits, hidden});
      }
    }
    EXPECT_GT(rows, 100) << n.name;
  }
  RecordProperty("worst_relative_difference", std::to_string(worst));
}

// Model::forward is that forward, and neither threads nor the instruction set change a bit of it.
TEST(Forward, ModelThreadsAndLevelsGiveTheSameBits) {
  ComputePool one(1), two(2);
  DraftShape shape;
  shape.type = Type::kQ5_1;
  shape.shared_wide = 64;
  for (const auto& [architecture, arithmetic] :
       {std::pair{"qwen2moe", tensor::Arithmetic::kExactQ8},
        {"llada2-moe", tensor::Arithmetic::kExactQ8},
        {"gemma3", tensor::Arithmetic::kExactQ8},
        {"qwen2moe", tensor::Arithmetic::kW8A8Row},
        {"qwen2moe", tensor::Arithmetic::kBf16Dot}}) {
    const Network n = network(architecture, draft(architecture, shape), arithmetic);
    const Model model(n.checkpoint, arithmetic, two);
    Scene scene(n.config, 12);
    Pages by_model(n.config, scene.pages()), by_hand(n.config, scene.pages());
    std::vector<Pages> by_level;
    for (size_t i = 0; i < tensor::available_isas().size(); ++i)
      by_level.emplace_back(n.config, scene.pages());
    for (int step = 0; step < 5; ++step) {
      Batch batch = scene.next(3);
      const Outcome expected = row_forward(n, batch, by_hand.kv(), two);
      Outcome got = outcome_of(n.config, batch);
      RowWorkspace space;
      model.forward(one, batch, by_model.kv(), space, [&](int, int index, std::span<float> logits) {
        got.logits[size_t(index)].assign(logits.begin(), logits.end());
      });
      ASSERT_TRUE(got == expected) << architecture << ", batch " << step;
      size_t level = 0;
      for (const tensor::Isa isa : tensor::available_isas()) {
        ASSERT_TRUE(row_forward(n, batch, by_level[level++].kv(), one, tensor::kernels(isa)) ==
                    expected)
            << architecture << " on " << tensor::name(isa) << ", batch " << step;
      }
    }
  }
}

// The network with one norm more in every layer: on what attention adds. Over any Ops, by the one
// forward.
template <class Ops, class Vector>
class WithExtraNorm : public Ops {
 public:
  template <class... Args>
  explicit WithExtraNorm(const Vector& extra, Args&&... args)
      : Ops(std::forward<Args>(args)...), extra_(extra) {}

  template <class Qkv>
  auto attend(int layer, Qkv& qkv) {
    after_attention_ = true;
    return Ops::attend(layer, qkv);
  }
  template <class Hidden, class In, class Linear>
  void linear_residual(Hidden& h, const In& in, const Linear& linear, const Vector& post_norm) {
    Ops::linear_residual(h, in, linear, after_attention_ ? extra_ : post_norm);
    after_attention_ = false;
  }

 private:
  const Vector& extra_;
  bool after_attention_ = false;
};

TEST(Forward, IsWrittenOnce) {
  ComputePool pool(2);
  DraftShape shape;
  shape.layers = 3;
  const Network n = network("llama", draft("llama", shape));
  const TensorWeights weights = n.tensors(at::kDouble);
  Scene scene(n.config, 13);
  Pages plain_pages(n.config, scene.pages()), pages(n.config, scene.pages());
  TensorKv kv(n.config, scene.pages(), at::kDouble);
  const RowVector extra(size_t(n.config.hidden), 0.5f);
  const at::Tensor tensor_extra = at::tensor(extra).to(at::kDouble);
  for (int step = 0; step < 4; ++step) {
    Batch batch = scene.next(4);
    const Outcome plain = row_forward(n, batch, plain_pages.kv(), pool);
    const Outcome rows = over_rows(n, batch, pages.kv(), pool, tensor::kernels(),
                                   [&](const RowOps::Shared& shared, Worker& worker) {
                                     WithExtraNorm<RowOps, RowVector> ops(extra, shared, worker);
                                     forward(ops, n.config, n.rows);
                                   });
    WithExtraNorm<TensorOps, at::Tensor> ops(tensor_extra, n.config, batch, kv);
    forward(ops, n.config, weights);
    const Outcome tensors = outcome(ops.answer());
    EXPECT_LE(distance(rows.logits, tensors.logits), kEqual);
    EXPECT_GT(distance(rows.logits, plain.logits), 0.05);
    EXPECT_GT(distance(tensors.logits, plain.logits), 0.05);
  }
}

// ---- quantised operations, one by one, from the very input that each reads

// Numbers rounded to int8, one scale per `block` of them.
std::vector<double> as_int8(const std::vector<float>& x, int block) {
  std::vector<double> out(x.size());
  for (size_t at = 0; at < x.size(); at += size_t(block)) {
    float largest = 0;
    for (int i = 0; i < block; ++i) largest = std::max(largest, std::abs(x[at + size_t(i)]));
    const float d = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (int i = 0; i < block; ++i) {
      const float q = std::clamp(std::nearbyintf(x[at + size_t(i)] * inverse), -127.0f, 127.0f);
      out[at + size_t(i)] = double(d) * double(q);
    }
  }
  return out;
}

// A matrix as its file and its class define it, in double.
struct Reference {
  int out, in, block;
  bool bf16;
  std::vector<double> weight;
  Reference(const StoredTensor& stored, const tensor::Matrix& packed)
      : out(stored.rows),
        in(stored.cols),
        block(packed.activation_block()),
        bf16(packed.arithmetic() == tensor::Arithmetic::kBf16Dot) {
    const std::vector<float> floats = stored.floats();
    const bool row8 = packed.arithmetic() == tensor::Arithmetic::kW8A8Row;
    weight = row8   ? as_int8(floats, in)
             : bf16 ? as_bf16(floats)
                    : std::vector<double>(floats.begin(), floats.end());
  }

  static std::vector<double> as_bf16(const std::vector<float>& x) {
    std::vector<double> out;
    for (const float v : x) out.push_back(bfloat16_to_float(float_to_bfloat16(v)));
    return out;
  }
  // Activations as the product reads them: int8 per block or row, bf16, or the floats themselves.
  std::vector<double> activations(const std::vector<float>& x) const {
    return block > 0 ? as_int8(x, block)
           : bf16    ? as_bf16(x)
                     : std::vector<double>(x.begin(), x.end());
  }
  // How near an element of x comes to the border between two int8 values, in steps; .5 when none is
  // quantised.
  double margin(const std::vector<float>& x) const {
    double least = 0.5;
    for (size_t at = 0; block > 0 && at < x.size(); at += size_t(block)) {
      double largest = 0;
      for (int i = 0; i < block; ++i)
        largest = std::max(largest, std::abs(double(x[at + size_t(i)])));
      for (int i = 0; i < block && largest > 0; ++i) {
        const double v = std::abs(double(x[at + size_t(i)])) * 127 / largest;
        least = std::min(least, std::abs(v - std::floor(v) - 0.5));
      }
    }
    return least;
  }
  std::vector<double> times(const std::vector<float>& x) const {
    const std::vector<double> a = activations(x);
    std::vector<double> y(size_t(out), 0.0);
    for (int o = 0; o < out; ++o) {
      for (int i = 0; i < in; ++i)
        y[size_t(o)] += weight[size_t(o) * size_t(in) + size_t(i)] * a[size_t(i)];
    }
    return y;
  }
};

double silu(double x) { return x / (1 + std::exp(-x)); }

std::vector<float> to_floats(const std::vector<double>& x) { return {x.begin(), x.end()}; }

double relative(std::span<const float> got, const std::vector<double>& expected) {
  double largest = 0, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    difference = std::max(difference, std::abs(double(got[i]) - expected[i]));
  }
  return difference / largest;
}

constexpr double kPerOperation = 1e-5;

struct QuantisedCase {
  const char* name;
  Type type;
  Type value_type;  // of attn_v: both block sizes of activations, or none, may be wanted at once
  tensor::Arithmetic arithmetic = tensor::Arithmetic::kExactQ8;
};

class QuantisedOperations : public testing::TestWithParam<QuantisedCase> {
 protected:
  static constexpr int kRows = 16;

  static DraftShape shape() {
    DraftShape s;
    s.layers = 1, s.hidden = 256, s.heads = 4, s.kv_heads = 2, s.head_dim = 64, s.wide = 256;
    s.vocab = 48, s.expert_wide = 256, s.shared_wide = 256;
    s.type = GetParam().type;
    return s;
  }
  static Network make(const std::string& architecture) {
    Draft d = draft(architecture, architecture == "llada2-moe" ? eight_experts(shape()) : shape());
    d.add("blk.0.attn_v.weight", {256, 128}, GetParam().value_type, 0, 0.2f);
    return network(architecture, d, GetParam().arithmetic);
  }
  // Rows of free vectors, no attention.
  static Batch rows(uint64_t seed) {
    Draws draws(seed);
    Batch batch;
    Epoch epoch;
    epoch.last_layer = 1;
    for (int r = 0; r < kRows; ++r) {
      RowInput in;
      in.kind = RowInput::kVector;
      for (int i = 0; i < 256; ++i)
        in.vector.push_back(draws.uniform(-1, 1) * (i % 19 == 0 ? 8.0f : 1.0f));
      batch.inputs.push_back(std::move(in));
      batch.positions.emplace_back(r);
      batch.segments.push_back(0);
      batch.active.emplace_back();
      batch.slots.push_back({0, r});
      epoch.rows.push_back(r);
      epoch.full.emplace_back();
      batch.head_rows.push_back(r);
    }
    batch.epochs.push_back(std::move(epoch));
    return batch;
  }
  static std::vector<float> normed(const Network& n, const std::vector<float>& x,
                                   const RowVector& weight) {
    std::vector<float> out(x.size());
    tensor::kernels().rms_norm(x.data(), weight.data(), n.config.norm_eps, int(x.size()),
                               out.data());
    return out;
  }
  // Runs one operation on `batch`; `operation` copies out what it gives on worker 0.
  void run(const Network& n, Batch& batch,
           const std::function<void(RowOps&, RowOps::Rows, RowWorkspace&, Worker&)>& operation) {
    ComputePool pool(2);
    Pages pages(n.config, 1);
    answer_ = over_rows(n, batch, pages.kv(), pool, tensor::kernels(),
                        [&](const RowOps::Shared& shared, Worker& worker) {
                          RowOps ops(shared, worker);
                          const RowOps::Rows h = ops.embed(n.rows.embedding, 1.0f);
                          ops.enter(h, 0);
                          operation(ops, h, shared.space, worker);
                        });
  }
  static void copy(std::vector<float>& out, const float* data, size_t n, Worker& worker) {
    if (worker.index() == 0) out.assign(data, data + n);
    worker.barrier();
  }
  Outcome answer_;
};

INSTANTIATE_TEST_SUITE_P(Types, QuantisedOperations,
                         testing::Values(QuantisedCase{"Q4_0", Type::kQ4_0, Type::kQ4_0},
                                         QuantisedCase{"Q4_1", Type::kQ4_1, Type::kQ4_1},
                                         QuantisedCase{"Q5_0", Type::kQ5_0, Type::kQ5_0},
                                         QuantisedCase{"Q5_1", Type::kQ5_1, Type::kQ5_1},
                                         QuantisedCase{"Q8_0", Type::kQ8_0, Type::kQ8_0},
                                         QuantisedCase{"Q4_K", Type::kQ4_K, Type::kQ4_K},
                                         QuantisedCase{"Q5_K", Type::kQ5_K, Type::kQ5_K},
                                         QuantisedCase{"Q6_K", Type::kQ6_K, Type::kQ6_K},
                                         QuantisedCase{"Q6_K_with_Q8_0", Type::kQ6_K, Type::kQ8_0},
                                         QuantisedCase{"Q4_1_with_F16", Type::kQ4_1, Type::kF16},
                                         QuantisedCase{"Q4_1_with_F16_w8a8", Type::kQ4_1,
                                                       Type::kF16, tensor::Arithmetic::kW8A8Row},
                                         QuantisedCase{"Q6_K_w8a8", Type::kQ6_K, Type::kQ6_K,
                                                       tensor::Arithmetic::kW8A8Row},
                                         QuantisedCase{"Q4_K_with_F32_bf16", Type::kQ4_K,
                                                       Type::kF32, tensor::Arithmetic::kBf16Dot}),
                         [](const auto& info) { return info.param.name; });

TEST_P(QuantisedOperations, NormQkv) {
  const Network n = make("qwen2");  // with biases
  const auto& layer = n.rows.layers[0];
  const auto& stored = n.stored.layers[0];
  Batch batch = rows(21);
  std::vector<float> got;
  int width = 0;
  run(n, batch, [&](RowOps& ops, RowOps::Rows h, RowWorkspace&, Worker& worker) {
    const RowOps::Rows qkv = ops.norm_qkv(h, layer.attn_norm, layer.q, layer.k, layer.v);
    if (worker.index() == 0) width = qkv.width;
    copy(got, qkv.data, size_t(kRows) * size_t(qkv.width), worker);
  });
  ASSERT_EQ(width, 256 + 128 + 128);
  const Reference q(stored.q.weight, layer.q.weight), k(stored.k.weight, layer.k.weight),
      v(stored.v.weight, layer.v.weight);
  for (int r = 0; r < kRows; ++r) {
    const auto x = normed(n, batch.inputs[size_t(r)].vector, layer.attn_norm);
    size_t at = size_t(r) * size_t(width);
    for (const auto& [matrix, bias] :
         {std::pair(&q, &layer.q.bias), {&k, &layer.k.bias}, {&v, &layer.v.bias}}) {
      std::vector<double> y = matrix->times(x);
      for (size_t i = 0; i < y.size(); ++i) y[i] += double((*bias)[i]);
      EXPECT_LE(relative(std::span(got).subspan(at, y.size()), y), kPerOperation) << "row " << r;
      at += y.size();
    }
  }
}

TEST_P(QuantisedOperations, LinearResidual) {
  for (const bool post_norm : {false, true}) {
    const Network n = make(post_norm ? "gemma3" : "llama");
    const auto& layer = n.rows.layers[0];
    Batch batch = rows(22);
    Batch inputs = rows(23);  // what the product reads
    std::vector<float> in, got;
    for (const auto& row : inputs.inputs) in.insert(in.end(), row.vector.begin(), row.vector.end());
    run(n, batch, [&](RowOps& ops, RowOps::Rows h, RowWorkspace& space, Worker& worker) {
      ops.linear_residual(h, {in.data(), 256}, layer.o, layer.post_attn_norm);
      copy(got, space.hidden.data(), size_t(kRows) * 256, worker);
    });
    ASSERT_EQ(layer.post_attn_norm.empty(), !post_norm);
    const Reference o(n.stored.layers[0].o.weight, layer.o.weight);
    for (int r = 0; r < kRows; ++r) {
      std::vector<double> y = o.times(inputs.inputs[size_t(r)].vector);
      if (post_norm) {
        double squares = 0;
        for (const double a : y) squares += a * a;
        const double scale = 1 / std::sqrt(squares / double(y.size()) + double(n.config.norm_eps));
        for (size_t i = 0; i < y.size(); ++i) y[i] *= scale * double(layer.post_attn_norm[i]);
      }
      for (size_t i = 0; i < y.size(); ++i) y[i] += double(batch.inputs[size_t(r)].vector[i]);
      EXPECT_LE(relative(std::span(got).subspan(size_t(r) * 256, 256), y), kPerOperation)
          << "row " << r;
    }
  }
}

TEST_P(QuantisedOperations, NormGated) {
  const Network n = make("llama");
  const auto& layer = n.rows.layers[0];
  Batch batch = rows(24);
  std::vector<float> got;
  run(n, batch, [&](RowOps& ops, RowOps::Rows h, RowWorkspace&, Worker& worker) {
    const RowOps::Rows gated = ops.norm_gated(h, layer.ffn_norm, layer.gate, layer.up);
    copy(got, gated.data, size_t(kRows) * size_t(gated.width), worker);
  });
  const Reference gate(n.stored.layers[0].gate.weight, layer.gate.weight),
      up(n.stored.layers[0].up.weight, layer.up.weight);
  for (int r = 0; r < kRows; ++r) {
    const auto x = normed(n, batch.inputs[size_t(r)].vector, layer.ffn_norm);
    std::vector<double> y = gate.times(x);
    const std::vector<double> u = up.times(x);
    for (size_t i = 0; i < y.size(); ++i) y[i] = silu(y[i]) * u[i];
    EXPECT_LE(relative(std::span(got).subspan(size_t(r) * 256, 256), y), kPerOperation)
        << "row " << r;
  }
}

TEST_P(QuantisedOperations, Head) {
  for (const char* architecture : {"llama", "gemma2"}) {  // gemma2 caps its logits
    const Network n = make(architecture);
    Batch batch = rows(25);
    run(n, batch, [&](RowOps& ops, RowOps::Rows h, RowWorkspace&, Worker&) {
      ops.head(h, n.rows.output_norm, n.rows.embedding);
    });
    const Reference head(n.stored.embedding, n.rows.embedding);
    for (int r = 0; r < kRows; ++r) {
      std::vector<double> y =
          head.times(normed(n, batch.inputs[size_t(r)].vector, n.rows.output_norm));
      if (n.config.logit_cap > 0) {
        for (double& x : y)
          x = double(n.config.logit_cap) * std::tanh(x / double(n.config.logit_cap));
      }
      EXPECT_LE(relative(answer_.logits[size_t(r)], y), kPerOperation) << "row " << r;
    }
  }
}

// Of four groups of two the two with the larger sums stay. Whether the choice is clear.
bool shut_worse_groups(std::vector<double>& by) {
  std::vector<std::pair<double, size_t>> groups;
  for (size_t g = 0; g < 4; ++g) groups.emplace_back(by[2 * g] + by[2 * g + 1], g);
  std::ranges::sort(groups, std::greater());
  for (size_t i = 2; i < 4; ++i) {
    const size_t g = groups[i].second;
    by[2 * g] = by[2 * g + 1] = -HUGE_VAL;
  }
  return groups[1].first - groups[2].first > 1e-4;
}

// The second products read what the first ones computed: an element near the border of two int8
// values may fall to either side, so only rows without one count (and rows whose routing is clear).
TEST_P(QuantisedOperations, ExpertsResidual) {
  for (const char* architecture : {"qwen2moe", "qwen3moe", "llada2-moe"}) {
    const Network n = make(architecture);
    const auto& layer = n.rows.layers[0];
    const auto& stored = n.stored.layers[0];
    const Experts& e = n.config.experts;
    Batch batch = rows(26);
    std::vector<float> got;
    run(n, batch, [&](RowOps& ops, RowOps::Rows h, RowWorkspace& space, Worker& worker) {
      ops.experts_residual(h, layer);
      copy(got, space.hidden.data(), size_t(kRows) * 256, worker);
    });
    const Reference router(stored.router, layer.router);
    ASSERT_EQ(router.block, 0) << "routers compute in fp32";
    int compared = 0;
    for (int r = 0; r < kRows; ++r) {
      const auto& vector = batch.inputs[size_t(r)].vector;
      const auto x = normed(n, vector, layer.ffn_norm);
      bool clear = true;
      const auto expert = [&](const StoredTensor& gate_file, const tensor::Matrix& gate,
                              const StoredTensor& up_file, const tensor::Matrix& up,
                              const StoredTensor& down_file, const tensor::Matrix& down) {
        std::vector<double> g = Reference(gate_file, gate).times(x);
        const std::vector<double> u = Reference(up_file, up).times(x);
        for (size_t i = 0; i < g.size(); ++i) g[i] = silu(g[i]) * u[i];
        const Reference last(down_file, down);
        const std::vector<float> inner = to_floats(g);
        clear = clear && last.margin(inner) > 3e-4;
        return last.times(inner);
      };
      std::vector<double> p = router.times(x);
      std::vector<double> by;
      if (std::string(architecture) == "llada2-moe") {
        for (double& a : p) a = 1 / (1 + std::exp(-a));
        by = p;
        for (size_t i = 0; i < by.size(); ++i) by[i] += double(layer.router_bias[i]);
        clear = shut_worse_groups(by);
      } else {
        const double top = *std::max_element(p.begin(), p.end());
        double sum = 0;
        for (double& a : p) sum += a = std::exp(a - top);
        for (double& a : p) a /= sum;
        by = p;
      }
      std::vector<int> order(p.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int a, int b) { return by[size_t(a)] > by[size_t(b)]; });
      clear =
          clear && by[size_t(order[size_t(e.used) - 1])] - by[size_t(order[size_t(e.used)])] > 1e-4;
      double chosen = 0;
      for (int j = 0; j < e.used; ++j) chosen += p[size_t(order[size_t(j)])];
      std::vector<double> y(vector.begin(), vector.end());
      const auto add = [&](double weight, const std::vector<double>& z) {
        for (size_t i = 0; i < y.size(); ++i) y[i] += weight * z[i];
      };
      for (int j = 0; j < e.used; ++j) {
        const size_t id = size_t(order[size_t(j)]);
        add((e.normalise ? p[id] / chosen : p[id]) * double(e.scale),
            expert(stored.expert_gate[id], layer.expert_gate[id], stored.expert_up[id],
                   layer.expert_up[id], stored.expert_down[id], layer.expert_down[id]));
      }
      if (!layer.shared_gate.empty()) {
        double weight = 1;
        if (!layer.shared_router.empty()) {
          const double g = Reference(stored.shared_router, layer.shared_router).times(x)[0];
          weight = 1 / (1 + std::exp(-g));
        }
        add(weight, expert(stored.shared_gate, layer.shared_gate, stored.shared_up, layer.shared_up,
                           stored.shared_down, layer.shared_down));
      }
      if (!clear) continue;
      ++compared;
      EXPECT_LE(relative(std::span(got).subspan(size_t(r) * 256, 256), y), kPerOperation)
          << architecture << ", row " << r;
    }
    EXPECT_GE(compared, 5) << architecture;
  }
}

// ---- gradients

// The loss of a batch: a fixed random combination of its logits.
double loss(const at::Tensor& logits) {
  Draws draws(31);
  const at::Tensor x = logits.detach().contiguous();
  double sum = 0;
  for (int64_t i = 0; i < x.numel(); ++i)
    sum += double(draws.uniform(-1, 1)) * x.data_ptr<double>()[i];
  return sum;
}
at::Tensor loss_weights(const at::Tensor& logits) {
  Draws draws(31);
  std::vector<float> w;
  for (int64_t i = 0; i < logits.numel(); ++i) w.push_back(draws.uniform(-1, 1));
  return at::tensor(w).to(at::kDouble).view(logits.sizes());
}

TEST(Gradients, EqualCentralDifferences) {
  int inputs_checked = 0;
  double map_steepest = 0;
  uint64_t seed = 32;
  for (const Network& n : all_networks(2)) {
    if (n.config.activation == tensor::Activation::kRelu)
      continue;  // has no derivative at its corner
    TensorWeights w = n.tensors(at::kDouble);
    Scene scene(n.config, seed++);
    TensorKv kv(n.config, scene.pages(), at::kDouble);
    for (int step = 0; step < 2; ++step) {
      const Batch warm = scene.next(4);
      tensor_forward(n.config, w, warm, kv);
    }
    const Batch batch = scene.next(5);
    TensorInputs inputs;
    inputs.rows.resize(size_t(batch.rows()));
    std::vector<std::pair<std::string, at::Tensor>> leaves;
    int free_rows = 0;
    for (size_t r = 0; r < inputs.rows.size(); ++r) {
      const RowInput& in = batch.inputs[r];
      if (in.kind != RowInput::kVector && in.kind != RowInput::kMix) continue;
      inputs.rows[r] =
          at::tensor(in.kind == RowInput::kVector ? in.vector : in.weights).to(at::kDouble);
      if (++free_rows <= 3)
        leaves.emplace_back("input of row " + std::to_string(r), inputs.rows[r]);
    }
    inputs_checked += std::min(free_rows, 3);
    const LinearMap& map = *scene.map();
    const Linear<at::Tensor, at::Tensor> tensor_map{
        at::tensor(map.weight).view({map.width, map.width}).to(at::kDouble),
        at::tensor(map.bias).to(at::kDouble)};
    inputs.maps.emplace(scene.map().get(), tensor_map);
    leaves.emplace_back("map", tensor_map.weight);
    leaves.emplace_back("map bias", tensor_map.bias);
    leaves.emplace_back("embedding", w.embedding);
    leaves.emplace_back("output norm", w.output_norm);
    for (const size_t l : {size_t(0), w.layers.size() - 1}) {
      const auto& layer = w.layers[l];
      const std::string at = "layer " + std::to_string(l) + " ";
      for (const auto& [name, t] : {std::pair("attn_norm", layer.attn_norm),
                                    {"q", layer.q.weight},
                                    {"k", layer.k.weight},
                                    {"v", layer.v.weight},
                                    {"v bias", layer.v.bias},
                                    {"q_norm", layer.q_norm},
                                    {"k_norm", layer.k_norm},
                                    {"segments", layer.segments},
                                    {"o", layer.o.weight},
                                    {"post norm", layer.post_ffn_norm},
                                    {"down", layer.down.weight},
                                    {"gate", layer.gate.weight},
                                    {"router", layer.router},
                                    {"shared", layer.shared_up},
                                    {"shared router", layer.shared_router}}) {
        if (t.defined()) leaves.emplace_back(at + name, t);
      }
      if (!layer.expert_down.empty()) leaves.emplace_back(at + "expert 1", layer.expert_down[1]);
    }
    for (auto& [name, leaf] : leaves) leaf.set_requires_grad(true);
    const auto run = [&] {
      TensorKv copy = kv;
      for (auto* list : {&copy.k, &copy.v}) {
        for (auto& t : *list) t = t.clone();
      }
      return tensor_forward(n.config, w, batch, copy, inputs).logits;
    };
    const at::Tensor logits = run();
    (logits * loss_weights(logits)).sum().backward();
    Draws draws(33);
    double steepest = 0;
    for (auto& [name, leaf] : leaves) {
      const at::Tensor gradient =
          leaf.grad().defined() ? leaf.grad().clone() : at::zeros_like(leaf);
      ASSERT_TRUE(gradient.isfinite().all().item<bool>()) << n.name << ", " << name;
      const at::Tensor flat = gradient.contiguous().view({-1});
      steepest = std::max(steepest, flat.abs().max().item<double>());
      if (name == "map") map_steepest = std::max(map_steepest, flat.abs().max().item<double>());
      for (int i = 0; i < 2; ++i) {
        // The steepest element, then a random one.
        const int64_t at =
            i == 0 ? flat.abs().argmax().item<int64_t>() : draws.below(int(flat.numel()));
        double* value = leaf.data_ptr<double>() + at;
        const double before = *value, h = 1e-5;
        *value = before + h;
        const double above = loss(run());
        *value = before - h;
        const double below = loss(run());
        *value = before;
        const double expected = (above - below) / (2 * h), got = flat[at].item<double>();
        EXPECT_NEAR(got, expected, 1e-6 * (1 + std::abs(expected)))
            << n.name << ", " << name << "[" << at << "]";
      }
    }
    EXPECT_GT(steepest, 0.1) << n.name;
  }
  EXPECT_GT(inputs_checked, 10);
  EXPECT_GT(map_steepest, 0.1);
}

}  // namespace
}  // namespace tutti::models
